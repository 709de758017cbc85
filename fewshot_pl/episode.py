"""The one data type that every part of fewshot_pl speaks.

The letters of every shape comment:
    T tasks, N ways (classes of a task), K shots (support images per class), Q queries per class,
    C channels, H height, W width, D features.
"""

from typing import NamedTuple

from torch import Tensor


class Episode(NamedTuple):
    """T few-shot tasks; a single task is an Episode without the leading T.

    Shots and queries may differ between classes (then N*K reads "all support images"), the number of
    classes is the same for the T tasks of one Episode.
    """

    support_x: Tensor  # [T, N*K, C, H, W] float, normalised
    support_y: Tensor  # [T, N*K] class of each image within its task, 0..N-1
    query_x: Tensor  # [T, N*Q, C, H, W] float, normalised
    query_y: Tensor  # [T, N*Q] class within the task, -100 where unknown

    @property
    def num_tasks(self) -> int:
        return self.support_x.shape[0]

    @property
    def num_ways(self) -> int:
        """Number of classes per task, counted from the support labels."""
        return int(self.support_y.max()) + 1
