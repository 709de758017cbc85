"""ImageDataModule: the base of the benchmarks of images."""

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from fewshot_pl.data.augment import Augmentation
from fewshot_pl.data.datamodule import SPLITS, EpisodicDataModule, Split
from fewshot_pl.data.episode_dataset import EpisodeDataset, ImageBatch, IndexBatch
from fewshot_pl.data.episode_sampler import EpisodeSampler
from fewshot_pl.data.image_store import BrokenStoreError, ImageStore, open_store, write_store
from fewshot_pl.data.pixels import class_major_labels, normalised, rotated
from fewshot_pl.episode import Episode

ClassImages = Iterable[tuple[str, NDArray[np.uint8]]]  # (class name, images uint8 [n, C, H, W])
_DEVICE_SHARE = 0.5  # of the accelerator's free memory that a store may take under store="auto"


class ImageDataModule(EpisodicDataModule):
    """Episodes of images, drawn from packed stores and assembled on the device.

    A benchmark says what it is through ``image_shape``, ``mean``, ``std``, ``num_rotations``, and hands over its
    images in ``class_images``; everything else is written here once.

    Args:
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
        root: str = "data",
        cache_dir: str | None = None,
        store: Literal["auto", "device", "host"] = "auto",
        augment: bool = True,
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, **kwargs)
        self.root = Path(root).expanduser()
        self.cache_dir = _cache_folder(cache_dir)
        self.store_place = store
        self.augment = augment
        self.stores: dict[str, ImageStore] = {}
        self._device_images: dict[tuple[str, torch.device], Tensor] = {}

    # What a benchmark states -----------------------------------------------------------------------

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

    def on_after_batch_transfer(self, batch: IndexBatch | ImageBatch | Episode, dataloader_idx: int) -> Episode:
        return batch if isinstance(batch, Episode) else self.episode(batch)

    # From indices to an Episode ------------------------------------------------------------------------

    def sampler(self, split: str) -> EpisodeSampler:
        """The sampler of a split's episodes, of the size that training or evaluation asks for."""
        return EpisodeSampler(self.stores[split], self.size(split), self.seed, self.num_rotations(split))

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

    # Datasets and caches -------------------------------------------------------------------------------

    def episode_dataset(self, split: Split) -> Dataset[IndexBatch | ImageBatch]:
        on_device = self._store_on_device(split)
        return EpisodeDataset(split, self.sampler(split), None if on_device else self.stores[split])

    def workers(self, split: Split) -> int:
        return 0 if self._store_on_device(split) else self.num_workers

    def _store_on_device(self, split: Split) -> bool:
        if self.store_place != "auto":
            return self.store_place == "device"
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if device.type != "cuda":
            return True  # the memory map is the device's memory: nothing is copied
        return self.stores[split].images.nbytes < _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]

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


def _cache_folder(cache_dir: str | None) -> Path:
    default = os.environ.get("FEWSHOT_PL_CACHE") or Path.home() / ".cache" / "fewshot_pl"
    return Path(cache_dir or default).expanduser()
