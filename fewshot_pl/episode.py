"""The one data type that all parts of fewshot_pl exchange.

The letters in shape comments:
    T tasks, N ways (classes of a task), K shots (support images per class), Q queries per class,
    U unlabelled images, C channels, H height, W width, D features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot_pl.errors import InputError

UNKNOWN = -100  # the label of an image whose class is not known


class Episode(NamedTuple):
    """T few-shot tasks; a single task is an Episode without the leading T.

    The numbers of shots and queries may differ between classes; N*K then means "all support images". Each class has at
    least one shot, and all T tasks of an Episode have the same number of classes.

    In regression an input x is an image [1, 1, 1], its target is [D] real numbers, and a task counts as one class.
    Semi-supervised training may contain tasks without any label: their support_y and query_y are -100 throughout.
    If the features of an image depend on no other image, an evaluation may hold features, [T, N*K, D] and
    [T, N*Q, D], in place of images.
    """

    support_x: Tensor  # [T, N*K, C, H, W] float, normalised
    support_y: Tensor  # [T, N*K] class of each image within its task, 0..N-1; in regression [T, N*K, D] float
    query_x: Tensor  # [T, N*Q, C, H, W] float, normalised
    query_y: Tensor  # [T, N*Q] class within the task, -100 where unknown; in regression [T, N*Q, D] float
    support_u: Tensor | None = None  # [T, U, C, H, W] unlabelled images of the same classes, to adapt to
    query_u: Tensor | None = None  # [T, U, C, H, W] others, used beside the queries for the loss
    # N if known (reading labels makes a GPU wait); then all queries of labelled tasks have labels
    known_ways: int | None = None
    labelled_tasks: tuple[bool, ...] | None = None  # [T] which tasks have labels, if N is known; None: all

    @property
    def num_tasks(self) -> int:
        return self.support_x.shape[0]

    @property
    def is_regression(self) -> bool:
        """Whether targets are real numbers."""
        return self.support_y.is_floating_point()

    @property
    def num_ways(self) -> int:
        """The number of classes per task, known or counted from the support labels; in regression the target size D."""
        if self.is_regression:
            return self.support_y.shape[-1]
        return int(self.support_y.max()) + 1 if self.known_ways is None else self.known_ways

    @property
    def holds_features(self) -> bool:
        """Whether support_x and query_x are features instead of images."""
        return self.support_x.ndim == 3

    @property
    def is_labelled(self) -> tuple[bool, ...]:
        """Whether each task has a labelled support image, [T]."""
        if self.labelled_tasks is not None:
            return self.labelled_tasks
        if self.is_regression or self.known_ways is not None:
            return (True,) * self.num_tasks
        return tuple((self.support_y != UNKNOWN).any(1).tolist())

    def tasks(self, which: slice | Sequence[int]) -> "Episode":
        """The Episode of the tasks ``which``, in that order."""
        numbers = range(self.num_tasks)[which] if isinstance(which, slice) else which
        given = {name: rows(field, which) for name, field in self._asdict().items() if isinstance(field, Tensor)}
        labelled = None if self.labelled_tasks is None else tuple(self.labelled_tasks[task] for task in numbers)
        return Episode(**given, known_ways=self.known_ways, labelled_tasks=labelled)


def check_episode(batch: object) -> None:
    """Raise InputError if a batch is not an Episode, as when a loader is used without its data module."""
    if not isinstance(batch, Episode):
        raise InputError(
            f"{type(batch).__name__} is not an Episode: pass the data module in place of its loader, as in "
            "trainer.fit(model, datamodule=data)"
        )


def check_support(episode: Episode) -> None:
    """Raise InputError if a class of a task has no support image, unless the number of ways is known."""
    if episode.known_ways is not None or episode.is_regression:
        return
    labels, classes = episode.support_y, torch.arange(episode.num_ways, device=episode.support_y.device)
    lacking = (labels[..., None] == classes).any(1).logical_not().nonzero()  # [n, 2]
    if len(lacking):
        task, number = lacking[0].tolist()
        raise InputError(
            f"task {task} of an Episode has no support image of class {number}: number the classes of each task 0 to "
            "N - 1, with the same N for all of its tasks"
        )


def rows(field: Tensor, which: slice | Sequence[int]) -> Tensor:
    """The rows ``which`` of a field [T, ...], in that order."""
    # Indexing with a list would copy it to the device, which makes a GPU wait.
    return field[which] if isinstance(which, slice) else torch.stack([field[task] for task in which])
