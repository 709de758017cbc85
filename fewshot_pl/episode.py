"""The one data type that every part of fewshot_pl speaks.

The letters of every shape comment:
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

    Shots and queries may differ between classes (then N*K reads "all support images"), of which each has at least one
    shot; the number of classes is the same for the T tasks of one Episode.

    In regression a point x is an image [1, 1, 1], a target is [D] real numbers, and a task counts as one class.
    A task without any label, which semi-supervised training may hold, has support_y and query_y -100 throughout.
    Where an image's features depend on no other image, an evaluation may hold features, [T, N*K, D] and [T, N*Q, D],
    in place of images.
    """

    support_x: Tensor  # [T, N*K, C, H, W] float, normalised
    support_y: Tensor  # [T, N*K] class of each image within its task, 0..N-1; of regression [T, N*K, D] float
    query_x: Tensor  # [T, N*Q, C, H, W] float, normalised
    query_y: Tensor  # [T, N*Q] class within the task, -100 where unknown; of regression [T, N*Q, D] float
    support_u: Tensor | None = None  # [T, U, C, H, W] images of the same classes that come without labels,
    query_u: Tensor | None = None  # [T, U, C, H, W] to adapt with and to measure with
    # N, where it is known (to read labels makes a GPU wait), and queries of labelled tasks all have labels
    known_ways: int | None = None
    labelled_tasks: tuple[bool, ...] | None = None  # [T] which have labels, where N is known; None: all

    @property
    def num_tasks(self) -> int:
        return self.support_x.shape[0]

    @property
    def is_regression(self) -> bool:
        """Whether targets are real numbers."""
        return self.support_y.is_floating_point()

    @property
    def num_ways(self) -> int:
        """Number of classes per task, known or counted from the support labels; of regression D, a target's numbers."""
        if self.is_regression:
            return self.support_y.shape[-1]
        return int(self.support_y.max()) + 1 if self.known_ways is None else self.known_ways

    @property
    def holds_features(self) -> bool:
        """Whether x are features in place of images."""
        return self.support_x.ndim == 3

    @property
    def is_labelled(self) -> tuple[bool, ...]:
        """Whether any support image of a task has a label, [T]."""
        if self.labelled_tasks is not None:
            return self.labelled_tasks
        if self.is_regression or self.known_ways is not None:
            return (True,) * self.num_tasks
        return tuple((self.support_y != UNKNOWN).any(1).tolist())

    def tasks(self, which: slice | Sequence[int]) -> "Episode":
        """The Episode of some of the tasks, in the order in which they are named."""
        numbers = range(self.num_tasks)[which] if isinstance(which, slice) else which
        given = {name: rows(field, which) for name, field in self._asdict().items() if isinstance(field, Tensor)}
        labelled = None if self.labelled_tasks is None else tuple(self.labelled_tasks[task] for task in numbers)
        return Episode(**given, known_ways=self.known_ways, labelled_tasks=labelled)


def check_episode(batch: object) -> None:
    """Raise InputError where a batch is no Episode, as one of a loader without the data module that completes it."""
    if not isinstance(batch, Episode):
        raise InputError(
            f"{type(batch).__name__} is no Episode: hand over the data module in place of its loader, as in "
            "trainer.fit(model, datamodule=data)"
        )


def check_support(episode: Episode) -> None:
    """Raise InputError where a task has no support image of some class; of a known number of ways nothing is read."""
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
    """Some of the rows of a field [T, ...], in the order in which they are named."""
    # A list as an index would be sent to the device, which makes a GPU wait.
    return field[which] if isinstance(which, slice) else torch.stack([field[task] for task in which])
