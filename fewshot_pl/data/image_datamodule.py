"""ImageDataModule: the base of image benchmarks."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from fewshot_pl.argument_types import check_at_least
from fewshot_pl.data.augment import Augmentation
from fewshot_pl.data.datamodule import Split
from fewshot_pl.data.episode_dataset import Batch, EpisodeDataset, IndexBatch, Sampler
from fewshot_pl.data.episode_sampler import EpisodeSampler
from fewshot_pl.data.pixels import normalised, rotated
from fewshot_pl.data.split_features import SplitFeatures
from fewshot_pl.data.square_image import Channels, plain_colour, square_image, whole_image
from fewshot_pl.data.stored_datamodule import StoredDataModule
from fewshot_pl.data.variable_sampler import VariableSampler, VariableSize, check_bounds
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError

Augment = bool | Literal["both", "support", "query", "none"]
Sampling = Literal["fixed", "variable"]
_AUGMENTED: dict[Augment, set[str]] = {
    **{True: {"support", "query"}, False: set()},
    **{"both": {"support", "query"}, "support": {"support"}, "query": {"query"}, "none": set()},
}


class ImageDataModule(StoredDataModule):
    """Episodes of images, drawn from packed stores and assembled on the device.

    A benchmark states ``image_shape``, ``mean``, ``std`` and ``num_rotations``, and provides its images in
    ``class_images``; everything else is implemented here once.

    Args:
        augment: augment training images, if the benchmark has an augmentation: ``both`` support and query (or true),
            one of them, or ``none`` (or false).
        num_unlabelled: unlabelled images per class to adapt with, and as many to measure with (Episode's
            ``support_u`` and ``query_u``), for semi-supervised tasks.
        unlabelled_tasks: share of the training tasks that have no labels at all.
        sampling: ``fixed``: every task has the given ways, shots and queries; ``variable``: tasks differ in ways, and
            their classes in shots, as in Meta-Dataset (see ``VariableSampler``), in training and evaluation; the
            given numbers are then ignored.
        min_ways: minimum number of classes of a variable task.
        max_ways: maximum number of classes of a variable task.
        max_queries: maximum number of query images per class of a variable task.
        max_support: maximum number of support images of a variable task.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    augmentation: Augmentation | None = None
    light_on_dark = False  # whether images show ink, which is stored light on dark
    whole_images = False  # whether an image is resized to a square as a whole, not cropped to its centre

    def __init__(
        self,
        augment: Augment = True,
        num_unlabelled: int = 0,
        unlabelled_tasks: float = 0.0,
        sampling: Sampling = "fixed",
        min_ways: int = 5,
        max_ways: int = 50,
        max_queries: int = 10,
        max_support: int = 500,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= unlabelled_tasks <= 1:
            raise InputError(f"--data.unlabelled_tasks is a share, 0 to 1, not {unlabelled_tasks}")
        check_at_least("--data.", 0, num_unlabelled=num_unlabelled)
        self.eval_size = self.eval_size._replace(num_unlabelled=num_unlabelled)
        self.train_size = self.train_size._replace(num_unlabelled=num_unlabelled)
        self.unlabelled_tasks = unlabelled_tasks
        self._augmented = _AUGMENTED[augment]
        self.variable_size = VariableSize(min_ways, max_ways, max_queries, max_support)
        self.is_variable = sampling == "variable"
        if self.is_variable:
            self._ask_for_variable_tasks()
        self._features: dict[str, SplitFeatures] = {}

    # What a benchmark states -----------------------------------------------------------------------

    @property
    def pixel_range(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        darkest, brightest = (
            tuple((value - mean) / std for mean, std in zip(self.mean, self.std, strict=True)) for value in (0.0, 1.0)
        )
        return darkest, brightest

    def own_image(self, image: Image.Image) -> NDArray[np.uint8]:
        """A user's image as this benchmark would store it, uint8 [C, H, W]: see ``square_image``, ``whole_image``."""
        size = self.image_shape[1]
        channels: Channels = 3 if self.image_shape[0] == 3 else 1
        whole = self.whole_images
        own = whole_image(plain_colour(image), size, channels) if whole else square_image(image, size, channels)
        return np.invert(own) if self.light_on_dark else own

    # Lightning's hooks -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.forget_features()  # left by an interrupted evaluation, maybe of another model

    def on_after_batch_transfer(self, batch: Batch | Episode, dataloader_idx: int) -> Episode:
        if isinstance(batch, Episode):
            return batch
        if isinstance(batch, IndexBatch) and batch.split in self._features:
            return self._episode_of_features(batch)
        return self.in_precision(self.episode(batch))

    def _ask_for_variable_tasks(self) -> None:
        if self.unlabelled_tasks or self.eval_size.num_unlabelled:
            raise InputError(
                "tasks that differ in size have no unlabelled images: leave out --data.num_unlabelled and "
                "--data.unlabelled_tasks, or pass --data.sampling fixed"
            )
        check_bounds(self.variable_size)
        self.eval_tasks_per_batch = 1

    # From indices to an Episode ------------------------------------------------------------------------

    def sampler(self, split: str) -> Sampler:
        """The sampler of a split's episodes, of the size for training or evaluation."""
        store, num_rotations = self.stores[split], self.num_rotations(split)
        if self.is_variable:
            return VariableSampler(store, self.variable_size, self.seed, num_rotations)
        unlabelled_tasks = self.unlabelled_tasks if split == "train" else 0.0
        return EpisodeSampler(store, self.size(split), self.seed, num_rotations, unlabelled_tasks)

    def fewest_ways(self, split: str) -> int:
        """The smallest number of classes that a split needs."""
        return self.variable_size.min_ways if self.is_variable else self.size(split).num_ways

    def episode(self, batch: Batch) -> Episode:
        """The Episode of a batch, on the batch's device; training images are augmented."""
        if isinstance(batch, IndexBatch):
            images = batch.indices.looked_up(partial(self._placed_images.at, batch.split))
        else:
            images = batch.images
        as_support = partial(self._pixels, batch.split, images.support_turns, part="support")
        as_query = partial(self._pixels, batch.split, images.query_turns, part="query")
        episode = Episode(
            support_x=as_support(images.support),
            support_y=images.support_y,
            query_x=as_query(images.query),
            query_y=images.query_y,
            known_ways=images.num_ways,
            labelled_tasks=tuple(images.is_labelled),
        )
        if images.unlabelled is None:
            return episode
        support_u, query_u = images.unlabelled
        return episode._replace(support_u=as_support(support_u), query_u=as_query(query_u))

    def fixed_episodes(self, split: Split, first: int = 0, count: int = 1) -> Episode:
        """Episodes ``first`` to ``first + count - 1`` of the validation or test list, in main memory.

        Tasks that differ in size come only one at a time.

        Raises:
            InputError: neither ``prepare_data()`` nor ``setup(stage)`` has been called.
        """
        return self.episode(IndexBatch(split, self.sampler(split)(0, first, count)))

    def _pixels(self, split: str, quarter_turns: Tensor, images: Tensor, part: str) -> Tensor:
        """Stored images, uint8 [T, N, n, C, H, W], as an algorithm sees them, [T, N*n, C, H, W]."""
        augmentation = self.augmentation if split == "train" and part in self._augmented else None
        turned = rotated(images, quarter_turns) if self.num_rotations(split) > 1 else images
        seen = normalised(turned.flatten(0, 2), self.mean, self.std, augmentation)
        return seen.reshape(len(images), -1, *seen.shape[1:])

    # Episodes of features ------------------------------------------------------------------------------

    def embed_split(self, split: str, encode: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """Embed every image of a split once, and from then on give its episodes as features instead of images.

        Done only if that is less work than embedding the images of each episode.

        Args:
            split: ``val`` or ``test``.
            encode: images [n, C, H, W] to features [n, D].
            device: the device to embed on.
        """
        if not self.embedding_pays(split):
            return
        on_device = self._placed_images.on(split, device)
        # From the host block by block, as they may not fit.
        images = self.stores[split].tensor() if on_device is None else on_device
        pixels = partial(self._pixels, split, part="support")
        self._features[split] = SplitFeatures(images, self.num_rotations(split), pixels, encode, device)

    def forget_features(self) -> None:
        """Go back to episodes of images."""
        self._features.clear()

    def embedding_pays(self, split: str) -> bool:
        """Whether the fixed episodes of a split hold more images than the split does."""
        drawn = self.num_episodes[split] * self.sampler(split).images_per_episode
        return drawn > len(self.stores[split].images) * self.num_rotations(split)

    def _episode_of_features(self, batch: IndexBatch) -> Episode:
        features, indices = self._features[batch.split], batch.indices
        support_x = features.at(indices.support, indices.support_turns)
        query_x = features.at(indices.query, indices.query_turns)
        return Episode(support_x, indices.support_y, query_x, indices.query_y, known_ways=indices.num_ways)

    # Datasets and caches -------------------------------------------------------------------------------

    def episode_dataset(self, split: Split) -> Dataset[Batch]:
        return EpisodeDataset(split, self.sampler(split), None if self._indices_do(split) else self.stores[split])

    def workers(self, split: Split) -> int:
        return 0 if self._indices_do(split) else self.num_workers

    def _indices_do(self, split: Split) -> bool:
        """Whether a loader can leave a split's images unread and give indices."""
        algorithm = self.trainer.lightning_module if self.trainer else None
        will_embed = split != "train" and getattr(algorithm, "embeds_alone", False) and self.embedding_pays(split)
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        return will_embed or self._placed_images.on(split, device) is not None
