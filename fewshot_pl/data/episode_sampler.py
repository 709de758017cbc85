"""EpisodeSampler: which classes and images an episode holds, as a pure function of its number."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.data.image_store import ImageStore
from fewshot_pl.data.indices import EpisodeIndices
from fewshot_pl.errors import InputError


class EpisodeSize(NamedTuple):
    """The size of a task."""

    num_ways: int
    num_shots: int
    num_queries: int
    num_unlabelled: int = 0  # unlabelled images per class to adapt with, and as many to measure with

    @property
    def num_images(self) -> int:
        """Images per class, all of them different."""
        return self.num_shots + self.num_queries + 2 * self.num_unlabelled


class EpisodeSampler:
    """Draws episodes from classes of images, without replacement and without global random state.

    Episode ``e`` of epoch ``p`` is a function of (seed, p, e) alone: it does not depend on the number of
    workers, devices or tasks per batch. Labels are assigned to classes at random in every episode.

    Args:
        store: the images, sorted by class.
        size: ways, shots, queries and unlabelled images of an episode.
        seed: any integer; every (seed, epoch, episode) has its own random stream.
        num_rotations: 4 makes each quarter turn of a class a separate class (class*4 + turns), 1 does not.
        unlabelled_tasks: share of episodes without any label.

    Raises:
        InputError: there are fewer classes than ways, or a class has fewer images than an episode takes from it.
    """

    def __init__(
        self,
        store: ImageStore,
        size: EpisodeSize,
        seed: int,
        num_rotations: int = 1,
        unlabelled_tasks: float = 0.0,
    ) -> None:
        self.size = size
        self.num_rotations = num_rotations
        self._starts = store.class_starts[:-1]
        self._counts = np.diff(store.class_starts)
        self._seed = seed
        self._unlabelled_tasks = unlabelled_tasks
        _check_size(store, size, num_rotations)

    def __call__(self, epoch: int, first_episode: int, num_episodes: int) -> EpisodeIndices:
        """Episodes ``first_episode`` to ``first_episode + num_episodes - 1`` of an epoch."""
        num_ways, num_shots, num_queries, num_unlabelled = self.size
        classes = np.empty((num_episodes, num_ways), dtype=np.int64)
        keys = np.empty((num_episodes, num_ways, self._counts.max()))
        is_labelled = []
        for task, generator in enumerate(_generators(self._seed, epoch, first_episode, num_episodes)):
            classes[task] = generator.choice(len(self._counts) * self.num_rotations, num_ways, replace=False)
            generator.random(out=keys[task])
            # Drawn last, so that it does not change the images.
            is_labelled.append(generator.random() >= self._unlabelled_tasks)
        sources, quarter_turns = np.divmod(classes, self.num_rotations)
        images = torch.from_numpy(self._starts[sources])[..., None] + self._picks(keys, sources, self.size.num_images)
        counts = [num_shots, num_queries, num_unlabelled, num_unlabelled]
        support, query, support_u, query_u = torch.split(images, counts, -1)
        turns = torch.from_numpy(quarter_turns)
        return EpisodeIndices(support, query, turns, support_u, query_u, tuple(is_labelled))

    @property
    def images_per_episode(self) -> float:
        """The number of labelled images in an episode."""
        return self.size.num_ways * (self.size.num_shots + self.size.num_queries)

    def classes(self, epoch: int, first_episode: int, num_episodes: int) -> Tensor:
        """The classes [T, N] of these episodes: the store's class times ``num_rotations``, plus the quarter turns."""
        indices = self(epoch, first_episode, num_episodes)
        sources = image_classes(self._starts, indices.query[..., 0])
        return sources * self.num_rotations + indices.quarter_turns

    def _picks(self, keys: NDArray[np.float64], classes: NDArray[np.int64], count: int) -> Tensor:
        """The positions [T, N, count] of the smallest random keys among each class's images, in key order."""
        if self._counts.min() < keys.shape[-1]:
            absent = np.arange(keys.shape[-1]) >= self._counts[classes][..., None]
            keys[absent] = np.inf
        # Twice as fast as numpy's argpartition.
        return torch.from_numpy(keys).topk(count, largest=False).indices


def image_classes(starts: NDArray[np.int64], images: Tensor) -> Tensor:
    """The class of each image [...], where the image numbers of class c start at ``starts[c]``."""
    return torch.from_numpy(np.searchsorted(starts, images.numpy(), side="right") - 1)


def episode_generator(seed: int, epoch: int, episode: int, purpose: int = 0) -> np.random.Generator:
    """The random generator of an episode; those for different purposes are independent."""
    # Philox is counter-based: the counter's upper words name the stream, so no two episodes share numbers.
    key = seed % 2**64 + purpose * 2**64
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, episode, epoch]))


def _generators(seed: int, epoch: int, first: int, count: int) -> Iterator[np.random.Generator]:
    """The generators of consecutive episodes, each valid until the next: one generator is reused, which is faster."""
    generator = episode_generator(seed, epoch, first)
    fresh: Any = generator.bit_generator.state
    for episode in range(first, first + count):
        fresh["state"]["counter"][2] = episode
        generator.bit_generator.state = fresh
        yield generator


def _check_size(store: ImageStore, size: EpisodeSize, num_rotations: int) -> None:
    num_classes = store.num_classes * num_rotations
    if num_classes < size.num_ways:
        raise InputError(
            f"an episode needs {size.num_ways} classes and there are only {num_classes}: lower num_ways or add classes"
        )
    counts = np.diff(store.class_starts)
    poorest = int(counts.argmin())
    if counts[poorest] < size.num_images:
        unlabelled = f" + 2 x {size.num_unlabelled} unlabelled images" if size.num_unlabelled else ""
        names = "num_shots, num_queries or num_unlabelled" if size.num_unlabelled else "num_shots or num_queries"
        raise InputError(
            f"class '{store.class_names[poorest]}' has {counts[poorest]} images and an episode needs "
            f"{size.num_shots} shots + {size.num_queries} queries{unlabelled}: add images, or lower {names}"
        )
