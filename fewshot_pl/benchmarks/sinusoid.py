"""Sinusoid: few-shot regression, each task a curve to infer from a few of its points (Finn et al. 2017, 2018)."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from fewshot_pl.data.datamodule import EpisodicDataModule, Split
from fewshot_pl.data.episode_dataset import EpisodeRange
from fewshot_pl.data.episode_sampler import EpisodeSize
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError

_SPLIT_SEEDS = {"train": 0, "val": 1, "test": 2}
_X_RANGE = (-5.0, 5.0)
_LARGEST_AMPLITUDE = 5.0
_LINE_RANGE = (-3.0, 3.0)  # of slope and intercept


class Sinusoid(EpisodicDataModule):
    """Curves y = A sin(x - phase) with A in 0.1 to 5 and phase in 0 to pi, seen at K points x in -5 to 5.

    Finn et al. 2017, section 5.1. With ``lines`` half of the tasks are straight lines, y = a x + b with a and b in
    -3 to 3, and the amplitudes start from 1, as in section 5 of Finn et al. 2018 (PLATIPUS), which adds ``noise`` of
    0.3 to the observed points. In evaluation the queries' targets are exact. All quantities are drawn uniformly.

    Args:
        num_shots: K, support points of a task.
        num_queries: query points of a task.
        lines: mix in straight lines.
        noise: standard deviation of the noise added to the support's targets, and in training to the queries' too.
        smallest_amplitude: lower bound of A; default 0.1, or 1 with ``lines``.
        largest_phase: upper bound of the phase; Reptile's case study of sine waves has 2 pi (Nichol et al. 2018).
        tasks_per_batch: training tasks per optimisation step on each device; 25 as in MAML's code.
    """

    preset = ("num_ways", "train_num_ways")  # a curve counts as one class
    monitor = "val/mse"
    image_shape = (1, 1, 1)
    pixel_range = ((_X_RANGE[0],), (_X_RANGE[1],))

    def __init__(
        self,
        num_shots: int = 10,
        num_queries: int = 10,
        lines: bool = False,
        noise: float = 0.0,
        smallest_amplitude: float | None = None,
        largest_phase: float = math.pi,
        tasks_per_batch: int = 25,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_ways=1,
            train_num_ways=1,
            num_shots=num_shots,
            num_queries=num_queries,
            tasks_per_batch=tasks_per_batch,
            **kwargs,
        )
        smallest = smallest_amplitude if smallest_amplitude is not None else (1.0 if lines else 0.1)
        if not 0 <= smallest <= _LARGEST_AMPLITUDE:
            raise InputError(f"--data.smallest_amplitude must be between 0 and {_LARGEST_AMPLITUDE}, not {smallest}")
        for name, value in (("noise", noise), ("largest_phase", largest_phase)):
            if not 0 <= value < math.inf:
                raise InputError(f"--data.{name} must be at least 0, not {value}")
        self.curves = Curves(lines, noise, (smallest, _LARGEST_AMPLITUDE), (0.0, largest_phase))

    def episode_dataset(self, split: Split) -> Dataset[Episode]:
        return _CurveDataset(self.curves, self.size(split), self.seed, split)

    def fixed_episodes(self, split: Split, first: int = 0, count: int = 1) -> Episode:
        """Episodes ``first`` to ``first + count - 1`` of the validation or test list, in main memory."""
        return self.episode_dataset(split)[EpisodeRange(0, first, count)]


class Curves(NamedTuple):
    """The distribution of the curves."""

    lines: bool
    noise: float
    amplitudes: tuple[float, float]
    phases: tuple[float, float]


class _CurveDataset(Dataset[Episode]):
    """Maps an EpisodeRange to an Episode; each curve is a function of (seed, split, epoch, episode) alone."""

    def __init__(self, curves: Curves, size: EpisodeSize, seed: int, split: str) -> None:
        self._curves = curves
        self._size = size
        self._key = seed % 2**64
        self._split = split

    def __getitem__(self, episodes: EpisodeRange) -> Episode:
        epoch, first, count = episodes
        points = np.stack([self._points(epoch, first + task) for task in range(count)])  # [T, K+Q, 2]
        x, y = (torch.from_numpy(values).float()[..., None] for values in (points[..., 0], points[..., 1]))
        shots = self._size.num_shots
        return Episode(_as_images(x[:, :shots]), y[:, :shots], _as_images(x[:, shots:]), y[:, shots:])

    def _points(self, epoch: int, episode: int) -> NDArray[np.float64]:
        """The points (x, y) [K+Q, 2] of a curve, the support first."""
        counter = [0, _SPLIT_SEEDS[self._split], episode, epoch]
        generator = np.random.Generator(np.random.Philox(key=self._key, counter=counter))
        x = generator.uniform(*_X_RANGE, self._size.num_shots + self._size.num_queries)
        amplitude, phase = generator.uniform(*self._curves.amplitudes), generator.uniform(*self._curves.phases)
        slope, intercept = generator.uniform(*_LINE_RANGE, 2)
        is_line = self._curves.lines and generator.random() < 0.5
        y = slope * x + intercept if is_line else amplitude * np.sin(x - phase)
        noise = generator.normal(0, 1, len(x)) * self._curves.noise
        if self._split != "train":
            noise[self._size.num_shots :] = 0  # a model is measured against the curve itself
        return np.stack([x, y + noise], -1)


def _as_images(x: Tensor) -> Tensor:
    """Points [T, n, 1] as images [T, n, 1, 1, 1]."""
    return x[..., None, None]
