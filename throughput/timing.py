"""Two ways of doing the same work, timed in turns."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch

Rate = Callable[[], float]  # does some work and says how much of it a second takes


@dataclass(frozen=True)
class Comparison:
    """What one run found of one piece of work.

    Attributes:
        name: of the work.
        unit: of ``ours`` and ``peer``.
        ours: the median of our rates.
        peer: the median of theirs, or the limit.
        ratio: the median of the ratios of neighbouring rates; above 1 we are faster.
        spread: the lowest and the highest of those ratios.
        repeats: how many rates each side has.
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
    """Comparisons that are made together, once they are asked for."""

    name: str
    comparisons: Callable[[], Iterable[Comparison]]


def compared(name: str, unit: str, ours: Rate, peer: Rate, repeats: int) -> Comparison:
    """Rates of both sides in turns, ``repeats`` of each, after one of each that does not count."""
    ours(), peer()
    pairs = [(ours(), peer()) for _ in range(repeats)]
    ratios = [our / their for our, their in pairs]
    our_median, peer_median = (statistics.median(side) for side in zip(*pairs, strict=True))
    spread = min(ratios), max(ratios)
    return Comparison(name, unit, our_median, peer_median, statistics.median(ratios), spread, repeats)


def rate(work: Callable[[], Any], amount: int, device: torch.device) -> float:
    """How many of the ``amount`` things that ``work`` does are done a second."""
    with stopwatch(device) as elapsed:
        work()
    return amount / elapsed[0]


@contextmanager
def stopwatch(device: torch.device) -> Iterator[list[float]]:
    """A list that holds, once left, the seconds spent within, the device's work included."""
    elapsed: list[float] = []
    synchronise(device)
    started = time.perf_counter()
    yield elapsed
    synchronise(device)
    elapsed.append(time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
