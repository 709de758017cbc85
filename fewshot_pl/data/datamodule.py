"""EpisodicDataModule: the base of every benchmark."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from fewshot_pl.data.augment import Augmentation
from fewshot_pl.data.episode_dataset import EpisodeDataset, FixedEpisodes, ImageBatch, IndexBatch, TrainingEpisodes
from fewshot_pl.data.episode_sampler import EpisodeSampler, EpisodeSize
from fewshot_pl.data.image_store import BrokenStoreError, ImageStore, open_store, write_store
from fewshot_pl.data.pixels import class_major_labels, normalised, rotated
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
ClassImages = Iterable[tuple[str, NDArray[np.uint8]]]  # (class name, images uint8 [n, C, H, W])
_DEVICE_SHARE = 0.5  # of the accelerator's free memory that a store may take under store="auto"


class EpisodicDataModule(LightningDataModule, ABC):
    """Episodes of a benchmark, drawn from packed stores and assembled on the device.

    A benchmark says what it is through ``image_shape``, ``mean``, ``std``, ``num_rotations``, and hands over its
    images in ``class_images``; everything else is written here once.

    Args:
        num_ways: classes per task in validation and test, and in training unless ``train_num_ways`` says otherwise.
        num_shots: support images per class, likewise.
        num_queries: query images per class, likewise.
        train_num_ways: classes per training task.
        train_num_shots: support images per class of a training task.
        train_num_queries: query images per class of a training task.
        tasks_per_batch: training tasks per optimisation step on each device.
        batches_per_epoch: optimisation steps between two validations.
        eval_tasks_per_batch: tasks per validation or test batch; changes speed, never the figures.
        num_val_episodes: length of the fixed list of validation episodes.
        num_test_episodes: length of the fixed list of test episodes.
        seed: of the episodes; the same seed gives the same episodes on any number of devices and workers.
        root: folder with the images as downloaded or as placed by hand.
        cache_dir: where packed images are kept; default ``$FEWSHOT_PL_CACHE`` or ``~/.cache/fewshot_pl``.
        store: keep the images on the ``device``, on the ``host``, or (``auto``) on the device when they fit.
        augment: random changes of training images, where the benchmark has any.
        num_workers: processes that read images when the store is on the host.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augmentation: Augmentation | None = None

    def __init__(
        self,
        num_ways: int = 5,
        num_shots: int = 1,
        num_queries: int = 15,
        train_num_ways: int | None = None,
        train_num_shots: int | None = None,
        train_num_queries: int | None = None,
        tasks_per_batch: int = 1,
        batches_per_epoch: int = 100,
        eval_tasks_per_batch: int = 8,
        num_val_episodes: int = 200,
        num_test_episodes: int = 1000,
        seed: int = 0,
        root: str = "data",
        cache_dir: str | None = None,
        store: Literal["auto", "device", "host"] = "auto",
        augment: bool = True,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)  # those of the benchmark too: a checkpoint knows its data
        self.eval_size = EpisodeSize(num_ways, num_shots, num_queries)
        self.train_size = EpisodeSize(
            train_num_ways or num_ways, train_num_shots or num_shots, train_num_queries or num_queries
        )
        _check_positive(tasks_per_batch=tasks_per_batch, batches_per_epoch=batches_per_epoch)
        _check_positive(eval_tasks_per_batch=eval_tasks_per_batch)
        _check_positive(num_val_episodes=num_val_episodes, num_test_episodes=num_test_episodes)
        self.tasks_per_batch = tasks_per_batch
        self.batches_per_epoch = batches_per_epoch
        self.eval_tasks_per_batch = eval_tasks_per_batch
        self.num_episodes = {"val": num_val_episodes, "test": num_test_episodes}
        self.seed = seed
        self.root = Path(root).expanduser()
        self.cache_dir = _cache_folder(cache_dir)
        self.store_place = store
        self.augment = augment
        self.num_workers = num_workers
        self.stores: dict[str, ImageStore] = {}
        self._device_images: dict[tuple[str, torch.device], Tensor] = {}

    # What a benchmark states -----------------------------------------------------------------------

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""

    @abstractmethod
    def class_images(self, split: Split) -> ClassImages:
        """The classes of a split with their images, read from the source; called once, then cached.

        Raises:
            InputError: a folder, class or image is missing or broken.
        """

    @abstractmethod
    def source_fingerprint(self) -> dict[str, Any]:
        """Plain values that change whenever ``class_images`` would give other images; names the cache."""

    def num_rotations(self, split: str) -> int:
        """4 where each quarter turn of a class counts as a class of its own."""
        return 1

    # Lightning's hooks -------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        for split in SPLITS:
            self._stored(split)

    def setup(self, stage: str) -> None:
        stages: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",)}
        needed = stages.get(stage, SPLITS)
        for split in needed:
            if split not in self.stores:
                self.stores[split] = self._stored(split)
            self.sampler(split)  # says now, not in a worker, when the classes are too few or too small

    def train_dataloader(self) -> DataLoader[IndexBatch | ImageBatch]:
        return self._loader("train", TrainingEpisodes(self.batches_per_epoch, self.tasks_per_batch, *self._place()))

    def val_dataloader(self) -> DataLoader[IndexBatch | ImageBatch]:
        return self._fixed_loader("val")

    def test_dataloader(self) -> DataLoader[IndexBatch | ImageBatch]:
        return self._fixed_loader("test")

    def on_after_batch_transfer(self, batch: IndexBatch | ImageBatch | Episode, dataloader_idx: int) -> Episode:
        return batch if isinstance(batch, Episode) else self.episode(batch)

    # From indices to an Episode ------------------------------------------------------------------------

    def sampler(self, split: str) -> EpisodeSampler:
        """The sampler of a split's episodes, of the size that training or evaluation asks for."""
        size = self.train_size if split == "train" else self.eval_size
        return EpisodeSampler(self.stores[split], size, self.seed, self.num_rotations(split))

    def episode(self, batch: IndexBatch | ImageBatch) -> Episode:
        """The Episode of a batch, on the batch's device; training images are augmented."""
        if isinstance(batch, IndexBatch):
            batch = self._gathered(batch)
        augmentation = self.augmentation if self.augment and batch.split == "train" else None
        num_tasks = batch.support.shape[0]
        pixels = []
        for images in (batch.support, batch.query):
            turned = rotated(images, batch.quarter_turns) if self.num_rotations(batch.split) > 1 else images
            seen = normalised(turned.flatten(0, 2), self.mean, self.std, augmentation)
            pixels.append(seen.reshape(num_tasks, -1, *seen.shape[1:]))
        labels = [class_major_labels(images) for images in (batch.support, batch.query)]
        return Episode(pixels[0], labels[0], pixels[1], labels[1])

    def _gathered(self, batch: IndexBatch) -> ImageBatch:
        images = self._images_on(batch.split, batch.indices.support.device)
        support, query, quarter_turns = batch.indices
        return ImageBatch(batch.split, images[support], images[query], quarter_turns)

    def _images_on(self, split: str, device: torch.device) -> Tensor:
        key = (split, device)
        if key not in self._device_images:
            self._device_images[key] = torch.from_numpy(self.stores[split].images).to(device)
        return self._device_images[key]

    # Loaders and caches --------------------------------------------------------------------------------

    def _fixed_loader(self, split: Split) -> DataLoader[IndexBatch | ImageBatch]:
        return self._loader(split, FixedEpisodes(self.num_episodes[split], self.eval_tasks_per_batch, *self._place()))

    def _loader(self, split: Split, batches: TrainingEpisodes | FixedEpisodes) -> DataLoader[IndexBatch | ImageBatch]:
        on_device = self._store_on_device(split)
        dataset = EpisodeDataset(split, self.sampler(split), None if on_device else self.stores[split])
        return DataLoader(
            dataset,
            sampler=batches,
            batch_size=None,
            num_workers=0 if on_device else self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _store_on_device(self, split: Split) -> bool:
        if self.store_place != "auto":
            return self.store_place == "device"
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type != "cuda":
            return True  # the memory map is the device's memory: nothing is copied
        return self.stores[split].images.nbytes < _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]

    def _place(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _stored(self, split: Split) -> ImageStore:
        path = self.cache_dir / f"{type(self).__name__}-{self._cache_key}" / split
        try:
            return open_store(path)
        except BrokenStoreError:
            rank_zero_info(f"Packing the {split} images of {type(self).__name__} into {path} (once)")
            write_store(path, self.class_images(split))
            return open_store(path)

    @cached_property
    def _cache_key(self) -> str:  # once: listing a large folder takes a second
        return hashlib.sha256(json.dumps(self.source_fingerprint(), sort_keys=True).encode()).hexdigest()[:12]


def _check_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"--data.{name} must be at least 1, not {count}")


def _cache_folder(cache_dir: str | None) -> Path:
    default = os.environ.get("FEWSHOT_PL_CACHE") or Path.home() / ".cache" / "fewshot_pl"
    return Path(cache_dir or default).expanduser()
