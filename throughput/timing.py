"""Two ways of doing the same work, timed in turns."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

Rate = Callable[[], float]  # does some work and returns how much of it per second


@dataclass(frozen=True)
class Comparison:
    """The measurement of one piece of work in one run.

    Attributes:
        name: of the work.
        unit: of ``ours`` and ``peer``.
        ours: the median of our rates.
        peer: the median of theirs, or the limit.
        ratio: the median of the ratios of neighbouring rates; above 1 we are faster.
        spread: the lowest and the highest of those ratios.
        repeats: the number of rates of each side.
    """

    name: str
    unit: str
    ours: float
    peer: float
    ratio: float
    spread: tuple[float, float]
    repeats: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Work(NamedTuple):
    """Comparisons that are made together, on demand."""

    name: str
    comparisons: Callable[[], Iterable[Comparison]]


def compared(name: str, unit: str, ours: Rate, peer: Rate, repeats: int) -> Comparison:
    """The Comparison of both sides by rates taken in turns, ``repeats`` of each, after one of each as a warm-up."""
    ours(), peer()
    pairs = [(ours(), peer()) for _ in range(repeats)]
    ratios = [our / their for our, their in pairs]
    our_median, peer_median = (statistics.median(side) for side in zip(*pairs, strict=True))
    spread = min(ratios), max(ratios)
    return Comparison(name, unit, our_median, peer_median, statistics.median(ratios), spread, repeats)


def rate(work: Callable[[], Any], amount: int, device: torch.device) -> float:
    """The amount of work per second, where ``work`` does ``amount`` of it."""
    with stopwatch(device) as elapsed:
        work()
    return amount / elapsed[0]


@contextmanager
def stopwatch(device: torch.device) -> Iterator[list[float]]:
    """A context's list that holds, at its end, the seconds spent inside, including the device's work."""
    elapsed: list[float] = []
    synchronise(device)
    started = time.perf_counter()
    yield elapsed
    synchronise(device)
    elapsed.append(time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
