"""Batches of episodes from several sources; an episode's source is a pure function of its number."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fewshot_pl.data.episode_dataset import Batch, EpisodeRange
from fewshot_pl.data.episode_sampler import episode_generator
from fewshot_pl.episode import Episode

_SOURCE = 1  # purpose of the random numbers; 0 draws the images of an episode


class MixedBatch(NamedTuple):
    """A batch whose episodes are grouped by source."""

    sources: Sequence[int]  # those that were drawn
    parts: Sequence[Batch]  # the episodes of each
    places: Sequence[int]  # [T] position of each episode of the batch among those of all parts


class MixedDataset(Dataset[MixedBatch]):
    """Maps an EpisodeRange to a batch whose episodes each come from a source drawn at random.

    Episode ``e`` is episode ``e`` of its source.

    Args:
        datasets: one for each source.
        shares: [S], probability of each source.
        seed: of the episodes.
    """

    def __init__(self, datasets: Sequence[Dataset[Batch]], shares: NDArray[np.float64], seed: int) -> None:
        self._datasets = datasets
        self._shares = shares
        self._seed = seed

    def __getitem__(self, episodes: EpisodeRange) -> MixedBatch:
        drawn = drawn_sources(self._seed, episodes, self._shares)
        order = drawn.argsort(kind="stable")
        sources = np.unique(drawn).tolist()
        parts = [self._part(source, episodes, np.flatnonzero(drawn == source).tolist()) for source in sources]
        return MixedBatch(tuple(sources), tuple(parts), tuple(order.argsort().tolist()))

    def _part(self, source: int, episodes: EpisodeRange, places: list[int]) -> Batch:
        ranges = [EpisodeRange(episodes.epoch, episodes.first_episode + place, 1) for place in places]
        return joined_batch([self._datasets[source][one] for one in ranges])


def drawn_sources(seed: int, episodes: EpisodeRange, shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """The source [T] of each episode, where source s has probability ``shares[s]``."""
    ends = shares.cumsum() / shares.sum()
    numbers = range(episodes.first_episode, episodes.first_episode + episodes.num_episodes)
    values = [episode_generator(seed, episodes.epoch, number, _SOURCE).random() for number in numbers]
    return np.searchsorted(ends, values, side="right")


def mixed_episode(batch: MixedBatch, episode_of: Callable[[int, Batch], Episode]) -> Episode:
    """The Episode of a batch, with its tasks in the order of their numbers.

    Args:
        batch: of tasks of one size.
        episode_of: maps a source and a batch from it to an Episode.
    """
    episodes = [episode_of(source, part) for source, part in zip(batch.sources, batch.parts, strict=True)]
    if len(episodes) == 1:
        return episodes[0]
    fields = zip(*(episode._asdict().items() for episode in episodes), strict=True)
    tensors = {
        column[0][0]: torch.cat([value for _, value in column]) for column in fields if isinstance(column[0][1], Tensor)
    }
    is_labelled = tuple(chain(*(episode.is_labelled for episode in episodes)))
    joined = Episode(**tensors, known_ways=episodes[0].known_ways, labelled_tasks=is_labelled)
    return joined.tasks(batch.places)


def joined_batch(batches: Sequence[Batch]) -> Batch:
    """Batches of one source as one batch; tasks that differ in size always come as a single batch."""
    joined: Batch = batches[0] if len(batches) == 1 else _joined(tuple(batches))
    return joined


def _joined(parts: tuple[Any, ...]) -> Any:
    """The same part of several batches as one: tensors, batches or indices of them, tuples; or what all have alike."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if hasattr(first, "_fields"):
        return type(first)(*map(_joined, zip(*parts, strict=True)))
    return tuple(chain(*parts)) if isinstance(first, tuple) else first
