"""StoredDataModule: the base of benchmarks whose images are packed into stores."""

import os
from abc import abstractmethod
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import Self

from fewshot_pl.data.datamodule import SPLITS, VAL_IMAGES, EpisodicDataModule, Split
from fewshot_pl.data.episode_dataset import Sampler
from fewshot_pl.data.image_source import ClassImages, cache_name, checked_classes
from fewshot_pl.data.image_store import BrokenStoreError, ImageStore, open_store, remove_parts, write_store
from fewshot_pl.data.one_process import one_process
from fewshot_pl.data.placed_images import PlacedImages
from fewshot_pl.errors import InputError

_NEEDED: dict[str, tuple[Split, ...]] = {  # splits, by stage of a Trainer
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
}


class StoredDataModule(EpisodicDataModule):
    """Reads a benchmark's images once, keeps them packed, and looks them up on the device or in main memory.

    Args:
        root: folder with the images as downloaded or placed by hand.
        cache_dir: where packed images are kept; default ``$FEWSHOT_PL_CACHE`` or ``~/.cache/fewshot_pl``.
        store: keep the images on the ``device``, on the ``host``, or (``auto``) on the device when they fit.
        num_workers: processes that read images when the store is on the host.
    """

    def __init__(
        self,
        root: str = "data",
        cache_dir: str | None = None,
        store: Literal["auto", "device", "host"] = "auto",
        num_workers: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_workers=num_workers, **kwargs)
        self.root = Path(root).expanduser()
        self.cache_dir = _cache_folder(cache_dir)
        self._placed_images = PlacedImages(store)
        self._opened: dict[str, ImageStore] = {}  # also those that only prepare_data has opened

    # What a benchmark states -----------------------------------------------------------------------

    @abstractmethod
    def class_images(self, split: Split) -> ClassImages:
        """The classes of a split with their images, read from the source; called once, then cached.

        The images of a class are a uint8 array [n, C, H, W], as ``image_shape`` states.

        Raises:
            InputError: a folder, class or image is missing or broken.
        """

    @abstractmethod
    def source_fingerprint(self) -> dict[str, Any]:
        """Plain values that change whenever ``class_images`` would give other images; names the cache.

        For a class outside fewshot_pl, its module, the module's file and ``image_shape`` name it too.
        """

    @abstractmethod
    def sampler(self, split: str) -> Sampler:
        """The sampler of a split's episodes, of the size for training or evaluation."""

    def num_rotations(self, split: str) -> int:
        """4 if each quarter turn of a class counts as a separate class, else 1."""
        return 1

    # Classes, including quarter turns that count as classes ------------------------------------------------

    def class_names(self, split: str) -> list[str]:
        """The names of a split's classes; raises InputError before ``prepare_data()`` and ``setup(stage)``."""
        turns = [f", turned by {90 * turn}°" if turn else "" for turn in range(self.num_rotations(split))]
        return [name + turn for name in self.stores[split].class_names for turn in turns]

    def class_examples(self, split: str, classes: Tensor, count: int = 1) -> Tensor:
        """The first ``count`` images of each of some classes [n], class after class, as stored: uint8 [m, C, H, W]."""
        examples = []
        for number in classes.tolist():
            source, turns = divmod(number, self.num_rotations(split))
            examples.append(np.rot90(self.stores[split].class_images(source)[:count], turns, axes=(2, 3)))
        return torch.from_numpy(np.concatenate(examples))

    def fixed_classes(self, split: Split, first: int = 0, count: int | None = None) -> Tensor:
        """The classes [T, N] of ``count`` validation or test episodes from ``first`` on, by default of all that follow.

        Tasks that differ in size come only one at a time.
        """
        return self.sampler(split).classes(0, first, self.num_episodes[split] - first if count is None else count)

    # Sizes --------------------------------------------------------------------------------------------

    def sized(self, **sizes: int) -> Self:
        """The same benchmark with other sizes, sharing the images in memory."""
        other = super().sized(**sizes)
        other._placed_images, other._opened = self._placed_images, self._opened
        return other

    # Lightning's hooks -------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        for split in SPLITS:
            self._stored(split)

    def setup(self, stage: str) -> None:
        self.check_variable(stage)
        for split in self._needed(stage):
            if split not in self.stores:
                self.stores[split] = self._stored(split)
            self.sampler(split)  # raises here, not in a worker, if classes are too few or too small

    def _needed(self, stage: str) -> list[Split]:
        """The splits that a stage of a Trainer draws from, without those it is told to leave out."""
        splits = _NEEDED.get(stage, SPLITS)
        if stage == "predict":
            return [*splits]
        return [split for split in splits if getattr(self.trainer, f"limit_{split}_batches", None) != 0]

    def state_dict(self) -> dict[str, Any]:
        store = self.stores.get("val")
        known = {} if store is None or store.checksum is None else {VAL_IMAGES: store.checksum}
        return super().state_dict() | known

    # Packed images -----------------------------------------------------------------------------------

    @property
    def stores(self) -> dict[str, ImageStore]:
        """The packed images of the splits that are set up."""
        return self._placed_images.stores

    def _stored(self, split: Split) -> ImageStore:
        if split not in self._opened:
            self._opened[split] = self._packed(split)
        return self._opened[split]

    def _packed(self, split: Split) -> ImageStore:
        path = self.cache_dir / self._cache_name / split
        with suppress(BrokenStoreError):
            return open_store(path)
        with one_process(path) as alone:
            with suppress(BrokenStoreError):
                return open_store(path)  # another process has packed them meanwhile
            if alone:
                remove_parts(path)
            rank_zero_info(f"Packing the {split} images of {type(self).__name__} into {path} (once)")
            write_store(path, checked_classes(type(self), self.class_images(split), self.image_shape))
            try:
                return open_store(path)
            except BrokenStoreError as error:
                raise InputError(
                    f"what was written is not what is read ({error}): pass --data.cache_dir a folder on another disk"
                ) from error

    @cached_property
    def _cache_name(self) -> str:  # once: listing a large folder takes a second
        return cache_name(type(self), self.source_fingerprint(), self.image_shape)


def _cache_folder(cache_dir: str | None) -> Path:
    default = os.environ.get("FEWSHOT_PL_CACHE") or Path.home() / ".cache" / "fewshot_pl"
    return Path(cache_dir or default).expanduser()
