"""EpisodicDataModule: the base of every benchmark."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset
from typing_extensions import Self

from fewshot_pl.argument_types import check_at_least, check_types
from fewshot_pl.data.episode_dataset import FixedEpisodes, TrainingEpisodes
from fewshot_pl.data.episode_sampler import EpisodeSize
from fewshot_pl.data.training_loader import TrainingLoader
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.plain_arguments import PlainArguments
from fewshot_pl.printable import first_of

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
_TRAIN_CLASSES = "train_classes"
VAL_IMAGES = "val_images"  # in the state of a benchmark that knows a checksum of what it validates on


class EpisodicDataModule(PlainArguments, LightningDataModule, ABC):
    """Episodes of a benchmark: endless fresh ones to train on, fixed lists to validate and test on.

    ``Trainer.predict(model, datamodule=data)`` gives the query logits [T, N*Q, N] of each batch of the test episodes.
    Without a Trainer, first call ``prepare_data()`` and ``setup("fit")``; until then, anything that needs images raises
    InputError. Each iteration over one ``train_dataloader()`` is the next epoch, and a new loader starts with epoch 0;
    ``data.episode(batch)`` turns its batches into Episodes.

    Args:
        num_ways: classes per task in validation and test, and in training unless ``train_num_ways`` says otherwise.
        num_shots: support images per class, likewise.
        num_queries: query images per class, likewise.
        train_num_ways: classes per training task.
        train_num_shots: support images per class of a training task.
        train_num_queries: query images per class of a training task.
        tasks_per_batch: training tasks per batch on each device.
        batches_per_epoch: batches of an epoch on each device; a step each, unless gradients are accumulated.
        eval_tasks_per_batch: tasks per validation or test batch; changes speed, never results.
        num_val_episodes: length of the fixed list of validation episodes.
        num_test_episodes: length of the fixed list of test episodes.
        seed: seed of the episodes; the same seed gives the same episodes on any number of devices and workers.
        num_workers: processes that make batches, unless these are only indices.
    """

    preset: tuple[str, ...] = ()  # arguments below that a benchmark sets itself
    monitor = "val/accuracy"  # the metric that chooses the best checkpoint
    is_variable = False  # whether tasks differ in size, so that no two fit into one batch

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
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False, ignore=self.preset)  # the benchmark's too: a checkpoint knows its data
        check_types(type(self), self.given_arguments, "--data")
        self.eval_size = EpisodeSize(num_ways, num_shots, num_queries)
        own = {"num_ways": train_num_ways, "num_shots": train_num_shots, "num_queries": train_num_queries}
        self.train_size = self.eval_size._replace(**{name: count for name, count in own.items() if count is not None})
        self._check_sizes()
        in_batches = {"tasks_per_batch": tasks_per_batch, "eval_tasks_per_batch": eval_tasks_per_batch}
        in_all = {"num_val_episodes": num_val_episodes, "num_test_episodes": num_test_episodes}
        check_at_least("--data.", 1, batches_per_epoch=batches_per_epoch, **in_batches, **in_all)
        check_at_least("--data.", 0, num_workers=num_workers)
        self.tasks_per_batch = tasks_per_batch
        self.batches_per_epoch = batches_per_epoch
        self.eval_tasks_per_batch = eval_tasks_per_batch
        self.num_episodes = {"val": num_val_episodes, "test": num_test_episodes}
        self.seed = seed
        self.num_workers = num_workers
        self._trained_before: set[str] = set()  # classes of a training that is resumed, some of which may be gone

    def _check_sizes(self) -> None:
        for part, size in (("", self.eval_size), ("train_", self.train_size)):
            for name in ("num_ways", "num_shots", "num_queries"):
                fewest = 2 if name == "num_ways" and name not in self.preset else 1  # one class: nothing to tell apart
                check_at_least("--data.", fewest, **{f"{part}{name}": getattr(size, name)})

    # What a benchmark states -----------------------------------------------------------------------

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images; (1, 1, 1) for a regression's x."""

    @property
    def pixel_range(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and highest values that images can have, per channel or for all channels."""
        return (0.0,), (1.0,)

    @abstractmethod
    def episode_dataset(self, split: Split) -> Dataset[Any]:
        """The dataset that maps an EpisodeRange to a batch."""

    def episode(self, batch: Any) -> Episode:
        """The Episode of a batch of a loader, on the batch's device; training images are augmented."""
        given: Episode = batch  # unless a benchmark's loader gives something else
        return given

    def size(self, split: str) -> EpisodeSize:
        """The task size for training or evaluation."""
        return self.train_size if split == "train" else self.eval_size

    def check_variable(self, stage: str) -> None:
        """Raise InputError if tasks differ in size, but the batches or the algorithm need tasks of one size."""
        if not self.is_variable:
            return
        if stage == "fit" and self.tasks_per_batch > 1:
            raise InputError(
                "tasks that differ in size come one to a batch: leave out --data.tasks_per_batch, and pass "
                f"--trainer.accumulate_grad_batches {self.tasks_per_batch} for steps on as many tasks"
            )
        algorithm = self.trainer.lightning_module if self.trainer else None
        if (num_outputs := getattr(algorithm, "num_ways", None)) is not None:
            raise InputError(
                f"{type(algorithm).__name__} has a head of {num_outputs} outputs and cannot take tasks that differ in "
                "ways: pass --data.sampling fixed, or train ProtoNet, MatchingNet, RelationNet or MetaGAN on the last"
            )

    @property
    def store_cure(self) -> str:
        """How to keep images out of a device's memory, as the end of a sentence; empty if they are not in it."""
        return "" if self.hparams.get("store", "host") == "host" else ", or on a GPU pass --data.store host"

    # Classes that another training may divide differently ----------------------------------------------

    def divided_classes(self, split: Split) -> list[str]:
        """The names of a split's classes if the same images can be split in several ways; else none."""
        return []

    def trained_classes(self, state: Mapping[str, Any], split: Split) -> list[str]:
        """The ``divided_classes`` of a split that a model was trained on, according to its checkpoint.

        Args:
            state: what ``state_dict`` gave, from the checkpoint.
            split: ``val`` or ``test``.
        """
        return sorted({*self.divided_classes(split)} & {*state.get(_TRAIN_CLASSES, ())})

    def state_dict(self) -> dict[str, Any]:
        names = sorted(self._trained_before.union(self.divided_classes("train")))
        return {_TRAIN_CLASSES: names} if names else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._trained_before = {*state_dict.get(_TRAIN_CLASSES, ())}

    def check_resumable(self, state: Mapping[str, Any]) -> None:
        """Raise InputError if a training resumed from this ``state_dict`` had classes that are in val or test now."""
        # A class that is in train too was so when training began, with a warning.
        seen = {name for split in ("val", "test") for name in self.trained_classes(state, split)}
        if moved := sorted(seen - {*self.divided_classes("train")}):
            raise InputError(
                f"class {first_of(moved)} was trained on before and is in val or test now: put "
                "the class folders back as they were, or start a training without --ckpt_path"
            )

    # Fixed lists -------------------------------------------------------------------------------------

    def sized(self, **sizes: int) -> Self:
        """The same benchmark with other numbers of ways, shots and so on, except those in ``preset``."""
        return type(self)(**{**self.given_arguments, **sizes})

    def seen_order(self, split: Split) -> list[int]:
        """The numbers of a split's fixed episodes as devices see them, one device after another."""
        world_size, _ = self._world_size_and_rank()
        size = self.num_episodes[split], self.eval_tasks_per_batch
        return [number for rank in range(world_size) for number in FixedEpisodes(*size, world_size, rank).numbers]

    # Lightning's hooks -------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader[Any]:
        size = self.batches_per_epoch, self.tasks_per_batch
        return self._loader("train", TrainingEpisodes(*size, *self._world_size_and_rank(), self._num_batches_done))

    def val_dataloader(self) -> DataLoader[Any]:
        return self._fixed_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._fixed_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        return self.test_dataloader()

    def _fixed_loader(self, split: Split) -> DataLoader[Any]:
        return self._loader(split, self.fixed_batches(split))

    def fixed_batches(self, split: Split) -> FixedEpisodes:
        """The EpisodeRange of each of this process's validation or test batches."""
        return FixedEpisodes(self.num_episodes[split], self.eval_tasks_per_batch, *self._world_size_and_rank())

    def _loader(self, split: Split, batches: TrainingEpisodes | FixedEpisodes) -> DataLoader[Any]:
        check_overfits_nothing(getattr(self.trainer, "overfit_batches", 0))
        # Without a Trainer, TrainingLoader could not tell where training stands.
        loader = TrainingLoader if split == "train" and self.trainer else DataLoader
        return loader(
            self.episode_dataset(split),
            sampler=batches,
            batch_size=None,
            num_workers=self.workers(split),
            pin_memory=self._feeds_a_gpu,
        )

    def workers(self, split: Split) -> int:
        """The number of processes that make a split's batches."""
        return self.num_workers

    @property
    def _feeds_a_gpu(self) -> bool:
        """Whether batches go to a GPU; without a Trainer, whether they could."""
        return self.trainer.strategy.root_device.type == "cuda" if self.trainer else torch.cuda.is_available()

    def _num_batches_done(self) -> int:
        """The number of batches of this epoch that training has done; above 0 where it was resumed in mid-epoch."""
        return self.trainer.fit_loop.batch_idx + 1 if self.trainer and self.trainer.training else 0

    def in_precision(self, episode: Episode) -> Episode:
        """An Episode in the Trainer's precision; Lightning itself converts only what comes out of a loader."""
        return self.trainer.precision_plugin.convert_input(episode) if self.trainer else episode

    def _world_size_and_rank(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)


def check_overfits_nothing(overfit_batches: float) -> None:
    """Raise InputError if a Trainer is told to overfit a part of the batches."""
    if overfit_batches:
        raise InputError(
            "training draws new episodes in every epoch, so no part of them can be overfitted: leave out "
            "--trainer.overfit_batches, and pass --trainer.limit_train_batches for a short training"
        )
