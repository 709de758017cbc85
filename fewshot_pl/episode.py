"""The one data type that every part of fewshot_pl speaks.

The letters of every shape comment:
    T tasks, N ways (classes of a task), K shots (support images per class), Q queries per class,
    U unlabelled images, C channels, H height, W width, D features.
"""

from typing import NamedTuple

from torch import Tensor

UNKNOWN = -100  # the label of an image whose class is not known


class Episode(NamedTuple):
    """T few-shot tasks; a single task is an Episode without the leading T.

    Shots and queries may differ between classes (then N*K reads "all support images"), the number of
    classes is the same for the T tasks of one Episode.

    In regression a point x is an image [1, 1, 1], a target is [D] real numbers, and a task counts as one class.
    A task without any label, which semi-supervised training may hold, has support_y and query_y -100 throughout.
    """

    support_x: Tensor  # [T, N*K, C, H, W] float, normalised
    support_y: Tensor  # [T, N*K] class of each image within its task, 0..N-1; of regression [T, N*K, D] float
    query_x: Tensor  # [T, N*Q, C, H, W] float, normalised
    query_y: Tensor  # [T, N*Q] class within the task, -100 where unknown; of regression [T, N*Q, D] float
    support_u: Tensor | None = None  # [T, U, C, H, W] images of the same classes that come without labels,
    query_u: Tensor | None = None  # [T, U, C, H, W] to adapt with and to measure with

    @property
    def num_tasks(self) -> int:
        return self.support_x.shape[0]

    @property
    def is_regression(self) -> bool:
        """Whether targets are real numbers."""
        return self.support_y.is_floating_point()

    @property
    def num_ways(self) -> int:
        """Number of classes per task, counted from the support labels; of regression D, the numbers of a target."""
        return self.support_y.shape[-1] if self.is_regression else int(self.support_y.max()) + 1

    @property
    def is_labelled(self) -> Tensor:
        """Whether any support image of a task has a label: booleans [T]."""
        return (self.support_y != UNKNOWN).flatten(1).any(1)

    def tasks(self, which: slice | Tensor) -> "Episode":
        """The Episode of some of the tasks."""
        given = {name: tensor[which] for name, tensor in self._asdict().items() if tensor is not None}
        return Episode(**given)
