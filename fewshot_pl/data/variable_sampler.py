"""VariableSampler: episodes that differ in ways and shots, as Meta-Dataset draws them (Triantafillou et al. 2020)."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.argument_types import check_at_least
from fewshot_pl.data.episode_sampler import episode_generator, image_classes
from fewshot_pl.data.image_store import ImageStore
from fewshot_pl.data.indices import VariableIndices
from fewshot_pl.errors import InputError

_MAX_CONTRIBUTION = 100  # section 3.2: most images of a class that count towards the size of the support
_LOG_WEIGHTS = math.log(0.5), math.log(2)  # section 3.2: the range of alpha
_FEW = 16  # episodes, to estimate their average size


class VariableSize(NamedTuple):
    """The bounds of tasks that differ in size; by default Meta-Dataset's (section 3.2)."""

    min_ways: int = 5
    max_ways: int = 50
    max_queries: int = 10  # per class
    max_support: int = 500  # support images of a task


def check_bounds(size: VariableSize) -> None:
    """Raise InputError if no task can meet these bounds, whatever the images."""
    check_at_least("--data.", 2, min_ways=size.min_ways)  # one class: nothing to tell apart
    if size.min_ways > size.max_ways:
        raise InputError(
            f"ways cannot lie between {size.min_ways} and {size.max_ways}: pass --data.max_ways at least "
            f"{size.min_ways}, or lower --data.min_ways"
        )
    check_at_least("--data.", 1, max_queries=size.max_queries)
    if size.max_support < size.max_ways:
        raise InputError(
            f"a support of {size.max_support} images cannot hold one of each of {size.max_ways} classes: raise "
            "--data.max_support or lower --data.max_ways"
        )


class VariableSampler:
    """Draws episodes that differ in ways, and whose classes differ in shots, without global random state.

    As in ``EpisodeSampler``, an episode is a function of (seed, epoch, episode) alone. Ways are uniform between the
    bounds; all classes have the same number of queries, at most half the images of the smallest class; the number of
    support images and their division among classes are random, with more for larger classes. Differs from the paper:
    classes of every benchmark, Omniglot and ImageNet too, are drawn uniformly, not along a hierarchy.

    Args:
        store: the images, sorted by class.
        size: the bounds.
        seed: any integer; every (seed, epoch, episode) has its own random stream.
        num_rotations: 4 makes each quarter turn of a class a separate class, 1 does not.

    Raises:
        InputError: the bounds contradict each other, or there are too few classes, or a class has a single image.
    """

    def __init__(self, store: ImageStore, size: VariableSize, seed: int, num_rotations: int = 1) -> None:
        self._size = size
        self._num_rotations = num_rotations
        self._num_classes = store.num_classes * num_rotations
        self._starts = store.class_starts[:-1]
        self._counts = np.diff(store.class_starts)
        self._seed = seed
        _check_store(store, size, self._num_classes)

    def __call__(self, epoch: int, first_episode: int, num_episodes: int = 1) -> VariableIndices:
        """Episode ``first_episode`` of an epoch; no two fit into one batch."""
        assert num_episodes == 1, "tasks that differ in size come one to a batch"
        generator = episode_generator(self._seed, epoch, first_episode)
        most_ways = min(self._size.max_ways, self._num_classes)
        num_ways = int(generator.integers(self._size.min_ways, most_ways, endpoint=True))
        sources, turns = np.divmod(generator.choice(self._num_classes, num_ways, replace=False), self._num_rotations)
        counts = self._counts[sources]
        num_queries = min(self._size.max_queries, int(counts.min()) // 2)
        share = 1 - generator.random()  # in (0, 1]
        weights = np.exp(generator.uniform(*_LOG_WEIGHTS, num_ways))
        shots = class_shots(counts, num_queries, self._size.max_support, share, weights)
        images = self._starts[sources][:, None] + _random_orders(generator, counts)
        labels, place = np.arange(num_ways), np.arange(images.shape[1])
        support = images[(place >= num_queries) & (place < num_queries + shots[:, None])]
        query = images[:, :num_queries].ravel()
        support_y, query_y = labels.repeat(shots), labels.repeat(num_queries)
        return VariableIndices(
            support=_one(support[:, None]),
            query=_one(query[:, None]),
            support_y=_one(support_y),
            query_y=_one(query_y),
            support_turns=_one(turns[support_y]),
            query_turns=_one(turns[query_y]),
            num_ways=num_ways,
        )

    def classes(self, epoch: int, first_episode: int, num_episodes: int = 1) -> Tensor:
        """The classes [1, N] of that episode, numbered as in ``EpisodeSampler``."""
        indices = self(epoch, first_episode, num_episodes)
        step = indices.query.shape[1] // indices.num_ways  # all classes have as many queries
        sources = image_classes(self._starts, indices.query[:, ::step, 0])
        return sources * self._num_rotations + indices.query_turns[:, ::step]

    @property
    def images_per_episode(self) -> float:
        """The approximate number of images in an episode."""
        first = [self(0, episode) for episode in range(_FEW)]
        return sum(indices.support.numel() + indices.query.numel() for indices in first) / _FEW


def class_shots(
    counts: NDArray[np.int64], num_queries: int, max_support: int, share: float, weights: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The numbers of support images [N] of an episode's classes (section 3.2, "support set size" and "shot").

    Args:
        counts: [N], images of each class.
        num_queries: query images of each class.
        max_support: maximum number of support images of the task.
        share: beta, in (0, 1].
        weights: exp(alpha) [N].
    """
    remaining = counts - num_queries
    num_support = min(max_support, int(np.ceil(share * np.minimum(_MAX_CONTRIBUTION, remaining)).sum()))
    proportions = weights * counts / (weights * counts).sum()
    wanted = np.floor(proportions * (num_support - len(counts))).astype(np.int64) + 1
    return np.minimum(wanted, remaining)


def _one(values: NDArray[np.int64]) -> Tensor:
    """The values [...] of one task as those of an Episode, [1, ...]."""
    return torch.from_numpy(values)[None]


def _random_orders(generator: np.random.Generator, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The positions [N, largest class] of each class's images in random order, then those that the class lacks."""
    keys = generator.random((len(counts), counts.max()))
    keys[np.arange(keys.shape[1]) >= counts[:, None]] = np.inf
    return keys.argsort(-1)


def _check_store(store: ImageStore, size: VariableSize, num_classes: int) -> None:
    if num_classes < size.min_ways:
        raise InputError(
            f"an episode needs {size.min_ways} classes and there are only {num_classes}: lower --data.min_ways or add "
            "classes"
        )
    counts = np.diff(store.class_starts)
    if counts.min() < 2:
        name = store.class_names[int(counts.argmin())]
        raise InputError(f"class '{name}' has a single image and an episode needs a support and a query: add images")
