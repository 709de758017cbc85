"""Which images episodes hold: two kinds of indices, which answer the same questions, also about looked-up images."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fewshot_pl.episode import UNKNOWN

Lookup = Callable[[Tensor], Tensor]  # image numbers [...] to images, uint8 [..., C, H, W]


class EpisodeIndices(NamedTuple):
    """Where the images of T episodes of one size lie in a store; once looked up, the images in place of their numbers.

    Images have the shape of their numbers and then [C, H, W].
    """

    support: Tensor  # [T, N, K] image numbers
    query: Tensor  # [T, N, Q] image numbers
    quarter_turns: Tensor  # [T, N] rotation of each class, 0..3
    support_u: Tensor  # [T, N, U] numbers of unlabelled images, to adapt with
    query_u: Tensor  # [T, N, U] to measure with
    is_labelled: Sequence[bool]  # [T] False: the other images come without labels too

    def looked_up(self, images_at: Lookup) -> "EpisodeIndices":
        """The same with images in place of their numbers."""
        return self._replace(
            support=images_at(self.support),
            query=images_at(self.query),
            support_u=images_at(self.support_u),
            query_u=images_at(self.query_u),
        )

    @property
    def num_ways(self) -> int:
        return self.quarter_turns.shape[1]

    @property
    def support_y(self) -> Tensor:  # [T, N*K]
        return _labels(self.support, self.is_labelled)

    @property
    def query_y(self) -> Tensor:  # [T, N*Q]
        return _labels(self.query, self.is_labelled)

    @property
    def support_turns(self) -> Tensor:
        return self.quarter_turns

    @property
    def query_turns(self) -> Tensor:
        return self.quarter_turns

    @property
    def unlabelled(self) -> tuple[Tensor, Tensor] | None:
        """``support_u`` and ``query_u``, if there are any."""
        return (self.support_u, self.query_u) if self.support_u.shape[2] else None


class VariableIndices(NamedTuple):
    """The same of one episode whose classes differ in shots; they have n support and m query images in all."""

    support: Tensor  # [1, n, 1] image numbers, class after class
    query: Tensor  # [1, m, 1] image numbers, class after class
    support_y: Tensor  # [1, n] class of each image within the task, 0..N-1
    query_y: Tensor  # [1, m]
    support_turns: Tensor  # [1, n] rotation of each image, 0..3
    query_turns: Tensor  # [1, m]
    num_ways: int  # N

    def looked_up(self, images_at: Lookup) -> "VariableIndices":
        """The same with images in place of their numbers."""
        return self._replace(support=images_at(self.support), query=images_at(self.query))

    @property
    def is_labelled(self) -> Sequence[bool]:
        return (True,)

    @property
    def unlabelled(self) -> None:
        return None


Indices = EpisodeIndices | VariableIndices


def _labels(images: Tensor, is_labelled: Sequence[bool]) -> Tensor:
    """The labels [T, N*n] of images [T, N, n, ...], class after class; UNKNOWN in tasks without any."""
    num_tasks, num_ways, per_class = images.shape[:3]
    labels = torch.arange(num_ways, device=images.device).repeat_interleave(per_class).expand(num_tasks, -1)
    if all(is_labelled):
        return labels
    rows = zip(labels, is_labelled, strict=True)
    return torch.stack([row if known else torch.full_like(row, UNKNOWN) for row, known in rows])
