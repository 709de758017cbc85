"""MultiSource: several benchmarks at once, as in Meta-Dataset (Triantafillou et al. 2020)."""

import inspect
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import Self

from fewshot_pl import benchmarks
from fewshot_pl.data.datamodule import VAL_IMAGES, EpisodicDataModule, Split
from fewshot_pl.data.episode_dataset import EpisodeRange
from fewshot_pl.data.image_datamodule import Augment, ImageDataModule, Sampling
from fewshot_pl.data.mixture import MixedBatch, MixedDataset, drawn_sources, mixed_episode
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.printable import first_of

Source = str | dict[str, dict[str, Any]]
_SHARED = ("root", "cache_dir", "store", "augment", "sampling")
_OF_ALL = tuple(inspect.signature(EpisodicDataModule).parameters)


class MultiSource(EpisodicDataModule):
    """Episodes that each come from one of several benchmarks, drawn at random, in training, validation and test.

    All images have one shape; those of each source are normalised by its own mean and deviation. Images from no
    benchmark, as in ``predict.py``, are prepared like those of the first source.

    Args:
        sources: each the name of a benchmark, or its name with its own arguments, as in
            ``[CIFARFS, {ImageFolder: {root: my_images, image_size: 32}}]``.
        weights: how often each source is drawn, relative to the others; default: all equally often.
        root: folder with the images of all sources that do not name another.
        cache_dir: where packed images are kept, likewise.
        store: keep the images on the ``device``, on the ``host``, or (``auto``) on the device when they fit, likewise.
        augment: augmentation of training images, likewise.
        sampling: ``fixed`` or ``variable`` tasks, see the benchmarks; the bounds are arguments of each source.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source] = ("Glyphs", "Omniglot"),
        weights: Sequence[float] | None = None,
        root: str = "data",
        cache_dir: str | None = None,
        store: Literal["auto", "device", "host"] = "auto",
        augment: Augment = True,
        sampling: Sampling = "fixed",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.shares = _shares(weights, len(sources))
        self.sources = [
            _made(source, self._arguments(share)) for source, share in zip(sources, self.shares, strict=True)
        ]
        _check_alike(self.sources)
        self.is_variable = self.sources[0].is_variable
        self.eval_tasks_per_batch = self.sources[0].eval_tasks_per_batch

    def _arguments(self, share: float) -> dict[str, Any]:
        """The arguments of a source that is drawn for this share of the episodes."""
        given = {name: self.hparams[name] for name in (*_OF_ALL, *_SHARED)}
        # How many fixed episodes a source has only decides whether its images are embedded once.
        counts = {f"num_{split}_episodes": max(1, round(share * count)) for split, count in self.num_episodes.items()}
        return given | counts

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.sources[0].image_shape

    @property
    def pixel_range(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        darkest, brightest = zip(*(source.pixel_range for source in self.sources), strict=True)
        return tuple(map(min, zip(*darkest, strict=True))), tuple(map(max, zip(*brightest, strict=True)))

    def sized(self, **sizes: int) -> Self:
        """The same benchmark with other sizes, sharing the images in memory."""
        other = super().sized(**sizes)
        other.sources = [source.sized(**sizes) for source in self.sources]
        return other

    def divided_classes(self, split: Split) -> list[str]:
        return [name for source in self.sources for name in source.divided_classes(split)]

    # Lightning's hooks -------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        for source in self.sources:
            source.prepare_data()
        _warn_of_shared_classes(self.sources)

    def setup(self, stage: str) -> None:
        self.check_variable(stage)
        for source in self.sources:
            source.trainer = self.trainer
            source.setup(stage)

    def state_dict(self) -> dict[str, Any]:
        checksums = [source.state_dict().get(VAL_IMAGES) for source in self.sources]
        return super().state_dict() | ({} if None in checksums else {VAL_IMAGES: checksums})

    def on_after_batch_transfer(self, batch: MixedBatch | Episode, dataloader_idx: int) -> Episode:
        if isinstance(batch, Episode):
            return batch
        episode = mixed_episode(
            batch, lambda source, part: self.sources[source].on_after_batch_transfer(part, dataloader_idx)
        )
        return self.in_precision(episode)

    # Episodes ------------------------------------------------------------------------------------------

    def episode_dataset(self, split: Split) -> Dataset[MixedBatch]:
        return MixedDataset([source.episode_dataset(split) for source in self.sources], self.shares, self.seed)

    def workers(self, split: Split) -> int:
        return max(source.workers(split) for source in self.sources)

    def episode(self, batch: MixedBatch) -> Episode:
        return mixed_episode(batch, lambda source, part: self.sources[source].episode(part))

    def fixed_episodes(self, split: Split, first: int = 0, count: int = 1) -> Episode:
        """Episodes ``first`` to ``first + count - 1`` of the validation or test list, in main memory."""
        batch = self.episode_dataset(split)[EpisodeRange(0, first, count)]
        return self.episode(batch)

    def class_names(self, split: Split) -> list[str]:
        """The class names of all sources, each with its source, which is numbered if several are of one kind."""
        kinds, names = [type(source).__name__ for source in self.sources], []
        for place, (kind, source) in enumerate(zip(kinds, self.sources, strict=True)):
            label = kind if kinds.count(kind) == 1 else f"{kind} {kinds[: place + 1].count(kind)}"
            names += [f"{name} ({label})" for name in source.class_names(split)]
        return names

    def class_examples(self, split: Split, classes: Tensor, count: int = 1) -> Tensor:
        """As ``StoredDataModule.class_examples``."""
        starts, examples = self._class_starts(split), []
        for number in classes.tolist():
            source = int(np.searchsorted(starts, number, side="right")) - 1
            own = torch.tensor([number - int(starts[source])])
            examples.append(self.sources[source].class_examples(split, own, count))
        return torch.cat(examples)

    def fixed_classes(self, split: Split, first: int = 0, count: int | None = None) -> Tensor:
        """As ``StoredDataModule.fixed_classes``."""
        count = self.num_episodes[split] - first if count is None else count
        starts, drawn = self._class_starts(split), drawn_sources(self.seed, EpisodeRange(0, first, count), self.shares)
        rows = [
            self.sources[source].fixed_classes(split, number, 1) + int(starts[source])
            for number, source in enumerate(drawn.tolist(), first)
        ]
        return torch.cat(rows)

    def _class_starts(self, split: Split) -> NDArray[np.int64]:
        """The number of the first class [S] of each source among the classes of all."""
        counts = [source.stores[split].num_classes * source.num_rotations(split) for source in self.sources]
        return np.cumsum([0, *counts[:-1]])

    def embed_split(self, split: str, encode: Callable[[Tensor], Tensor], device: torch.device) -> None:
        """As ``ImageDataModule.embed_split``, but only if it pays for every source: batches do not mix kinds."""
        if all(source.embedding_pays(split) for source in self.sources):
            for source in self.sources:
                source.embed_split(split, encode, device)

    def forget_features(self) -> None:
        """Go back to episodes of images."""
        for source in self.sources:
            source.forget_features()


def _shares(weights: Sequence[float] | None, num_sources: int) -> NDArray[np.float64]:
    """The probability of each source."""
    if num_sources == 0:
        raise InputError("there is no source: name benchmarks, as --data.sources '[Glyphs, Omniglot]'")
    given = np.ones(num_sources) if weights is None else np.asarray(weights, dtype=np.float64)
    if len(given) != num_sources or given.min() < 0 or not 0 < given.sum() < np.inf:
        raise InputError(f"--data.weights takes a number, 0 or more, for each of {num_sources} sources, not {weights}")
    shares: NDArray[np.float64] = given / given.sum()
    return shares


def _made(source: Source, shared: dict[str, Any]) -> ImageDataModule:
    """The benchmark that a source names; its own arguments override those that all share."""
    named = source if isinstance(source, dict) else {source: {}}
    if len(named) != 1 or not all(isinstance(own, dict) for own in named.values()):
        raise InputError(f"a source is a name, or a name with arguments as {{CUB: {{root: birds}}}}, not {source}")
    ((name, own),) = named.items()
    kinds = {known: getattr(benchmarks, known) for known in benchmarks.__all__}
    images = [known for known, kind in kinds.items() if issubclass(kind, ImageDataModule)]
    if name not in images:
        raise InputError(f"there is no benchmark of images {name}: --data.sources takes {', '.join(images)}")
    accepted = {argument for kind in kinds[name].__mro__ for argument in inspect.signature(kind.__init__).parameters}
    for argument in own:
        if argument in _OF_ALL:
            raise InputError(f"{argument} is the same for all sources: pass --data.{argument}, not to {name}")
        if argument not in accepted:
            raise InputError(f"{name} has no argument {argument}: leave it out of --data.sources")
    made: ImageDataModule = kinds[name](**shared | own)
    return made


def _warn_of_shared_classes(sources: Sequence[ImageDataModule]) -> None:
    """Warn of classes that one source trains on and another validates or tests on."""
    for trained, measured in permutations(sources, 2):
        for split in ("val", "test"):
            if shared := sorted({*trained.divided_classes("train")} & {*measured.divided_classes(split)}):
                rank_zero_warn(
                    f"class {first_of(shared)} is in train of {type(trained).__name__} and in {split} of "
                    f"{type(measured).__name__}: few-shot figures are about classes that training never saw"
                )


def _check_alike(sources: Sequence[ImageDataModule]) -> None:
    """Raise InputError if images or tasks of the sources do not fit into one batch."""
    shapes = {f"{type(source).__name__} {source.image_shape}": source.image_shape for source in sources}
    if len(set(shapes.values())) > 1:
        raise InputError(
            f"sources must have images of one shape and these have {', '.join(shapes)} (channels, height, width): give "
            "those that take it an image_size, as {CUB: {image_size: 32}}"
        )
    if len({(source.is_variable, source.train_size, source.eval_size) for source in sources}) > 1:
        raise InputError("sources must have tasks of one kind: give sampling and num_unlabelled to all alike")
