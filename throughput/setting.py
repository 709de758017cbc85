"""The settings of a run of the comparison, and the data it works on."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from fewshot_pl.benchmarks import CIFARFS, Omniglot
from fewshot_pl.data.image_datamodule import ImageDataModule

_STEPS_ON_GPU = 50
_ENDLESS = 1_000_000  # batches of an epoch, whose end no measurement reaches
BENCHMARKS: dict[str, type[ImageDataModule]] = {"Omniglot": Omniglot, "CIFARFS": CIFARFS}


@dataclass(frozen=True)
class Task:
    """The size of a training task; evaluation is 5-way, and otherwise the same."""

    benchmark: str
    num_ways: int
    num_shots: int
    num_queries: int

    @property
    def num_images(self) -> int:
        """The number of all images of the task."""
        return self.num_ways * (self.num_shots + self.num_queries)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, 28, 28) if self.benchmark == "Omniglot" else (3, 32, 32)

    def __str__(self) -> str:
        return f"{self.benchmark} {self.num_ways}-way {self.num_shots}-shot {self.num_queries}-query"


@dataclass(frozen=True)
class Adaptation:
    """How MAML adapts to a task."""

    num_steps: int
    first_order: bool
    inner_lr: float = 0.1

    def __str__(self) -> str:
        return f"{self.num_steps} inner steps, {'first' if self.first_order else 'second'} order"


@dataclass(frozen=True)
class Setting:
    """The flags of the command.

    Attributes:
        device: where all networks run.
        root: folder with the archives of Omniglot and CIFAR-100.
        work: folder for image files, caches and logs; kept for the next run.
        repeats: number of rates taken of each side.
        quick: whether to do only a few seconds of each kind of work, to see that it runs; the figures mean little.
        only: parts of names, all of which the name of a Work must contain.
        other_side: the connection to the process of the other side, see ``throughput.apart``.
        is_peer: whether this process is the peer's.
    """

    device: torch.device
    root: Path
    work: Path
    repeats: int
    quick: bool
    only: tuple[str, ...] = ()
    other_side: Any = None
    is_peer: bool = False

    @cached_property
    def accelerator(self) -> str:
        return "gpu" if self.device.type == "cuda" else "cpu"

    @property
    def meta_batch(self) -> int:
        """MAML's training tasks per step."""
        return self.amount(32, 4)

    def asks_for(self, work: str) -> bool:
        """Whether the Work of this name is to be done."""
        return all(part in work for part in self.only)

    def amount(self, full: int, quick: int = 1) -> int:
        """The amount of work that a rate is taken from: ``full``, or ``quick`` on a quick run."""
        return quick if self.quick else full

    def steps(self, on_cpu: int) -> int:
        """The number of our training steps that a rate is taken from: on a GPU enough to outlast what is around."""
        return self.amount(on_cpu if self.device.type == "cpu" else max(on_cpu, _STEPS_ON_GPU), min(on_cpu, 2))

    def data(self, task: Task, **settings: Any) -> ImageDataModule:
        """The data module of a task's benchmark, set up, without augmentation."""
        settings |= {"batches_per_epoch": _ENDLESS, "augment": False, "cache_dir": str(self.work / "cache")}
        settings |= {"train_num_ways": task.num_ways, "num_shots": task.num_shots, "num_queries": task.num_queries}
        module = BENCHMARKS[task.benchmark](root=str(self.root), **settings)
        module.prepare_data()
        module.setup("fit")
        module.setup("test")
        return module
