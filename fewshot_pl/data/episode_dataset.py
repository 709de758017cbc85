"""From episode numbers to batches: the datasets and samplers of DataLoaders."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch.utils.data import Dataset, DistributedSampler

from fewshot_pl.data.episode_sampler import EpisodeSampler
from fewshot_pl.data.image_store import ImageStore
from fewshot_pl.data.indices import Indices
from fewshot_pl.data.variable_sampler import VariableSampler

Sampler = EpisodeSampler | VariableSampler


class EpisodeRange(NamedTuple):
    """The numbers of consecutive episodes of an epoch, which form one batch."""

    epoch: int
    first_episode: int
    num_episodes: int


class IndexBatch(NamedTuple):
    """A batch whose images are still in the store."""

    split: str
    indices: Indices


class ImageBatch(NamedTuple):
    """A batch whose images a worker has read from the store."""

    split: str
    images: Indices  # looked up


Batch = IndexBatch | ImageBatch


class EpisodeDataset(Dataset[Batch]):
    """Maps an EpisodeRange to a batch: indices, or images too when ``store`` is given."""

    def __init__(self, split: str, sampler: Sampler, store: ImageStore | None = None) -> None:
        self._split = split
        self._sampler = sampler
        self._store = store

    def __getitem__(self, episodes: EpisodeRange) -> Batch:
        indices = self._sampler(*episodes)
        if self._store is None:
            return IndexBatch(self._split, indices)
        return ImageBatch(self._split, indices.looked_up(self._store.images_at))


class TrainingEpisodes(DistributedSampler[EpisodeRange]):
    """Endless fresh episodes: ``batches_per_epoch`` batches of ``tasks_per_batch`` for each device.

    Devices take disjoint episode numbers. Each iteration is the next epoch, or the one that ``set_epoch`` names.
    It is a DistributedSampler so that Lightning sets the epoch and does not wrap it in a sampler of its own.

    Args:
        batches_per_epoch: batches of each device.
        tasks_per_batch: tasks per batch of each device.
        num_replicas: number of devices.
        rank: rank of this device.
        num_done: returns how many batches of the epoch training has done when an iteration starts.
    """

    def __init__(
        self,
        batches_per_epoch: int,
        tasks_per_batch: int,
        num_replicas: int = 1,
        rank: int = 0,
        num_done: Callable[[], int] = int,
    ) -> None:
        self.num_replicas, self.rank, self.epoch = num_replicas, rank, 0
        self._num_batches = batches_per_epoch
        self._tasks_per_batch = tasks_per_batch
        self._num_done = num_done

    def __iter__(self) -> Iterator[EpisodeRange]:
        epoch = self.epoch
        self.epoch += 1  # for a loop without a Trainer, which would set it
        for batch in range(self._num_done(), self._num_batches):
            first = (batch * self.num_replicas + self.rank) * self._tasks_per_batch
            yield EpisodeRange(epoch, first, self._tasks_per_batch)

    def __len__(self) -> int:
        return self._num_batches


class FixedEpisodes(DistributedSampler[EpisodeRange]):
    """Episodes ``0..num_episodes - 1`` of epoch 0, each exactly once whatever the number of devices."""

    def __init__(self, num_episodes: int, tasks_per_batch: int, num_replicas: int = 1, rank: int = 0) -> None:
        self.num_replicas, self.rank, self.epoch = num_replicas, rank, 0
        tasks_per_batch = min(tasks_per_batch, max(num_episodes // num_replicas, 1))  # Lightning refuses empty loaders
        firsts = range(rank * tasks_per_batch, num_episodes, num_replicas * tasks_per_batch)
        self._ranges = [EpisodeRange(0, first, min(tasks_per_batch, num_episodes - first)) for first in firsts]

    @property
    def numbers(self) -> list[int]:
        """The numbers of the episodes, in order."""
        return [first + task for _, first, count in self._ranges for task in range(count)]

    def __iter__(self) -> Iterator[EpisodeRange]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)
