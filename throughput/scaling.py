"""How the cost of a MAML step grows: each cost against the straight line fitted to all of them."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch

from fewshot_pl.algorithms import MAML
from fewshot_pl.episode import Episode
from throughput.our_way import bare_step
from throughput.setting import Setting
from throughput.timing import Comparison, Work, stopwatch, synchronise

_WARMING_SECONDS = 3.0


def work(setting: Setting) -> Iterator[Work]:
    batches = (1, 4, 16, 64, 256)[: setting.amount(5, 3)]
    steps = (1, 2, 5, 10, 20)[: setting.amount(5, 3)]
    sides = (28, 42, 56, 84)[: setting.amount(4, 3)]
    pixels = [side * side for side in sides]
    lines = {
        "tasks of a step": (batches, batches, lambda tasks: _step(setting, tasks, 1, 28)),
        "inner steps": (steps, steps, lambda number: _step(setting, 4, number, 28)),
        "pixels of an image's side": (sides, pixels, lambda side: _step(setting, 4, 1, side)),
    }
    for name, line in lines.items():
        yield Work(f"MAML's cost by {name}", partial(_line, setting, name, *line))


def _step(setting: Setting, num_tasks: int, num_steps: int, side: int) -> Callable[[], None]:
    """A second-order step of 5-way 1-shot tasks with 15 queries per class on random images."""
    model = MAML(image_shape=(1, side, side), backbone="conv4-strided", inner_lr=0.1, num_inner_steps=num_steps)
    support_y, query_y = (torch.arange(5).repeat_interleave(count).expand(num_tasks, -1) for count in (1, 15))
    support_x, query_x = (torch.randn(*labels.shape, 1, side, side) for labels in (support_y, query_y))
    on = setting.device
    episode = Episode(support_x.to(on), support_y.to(on), query_x.to(on), query_y.to(on), known_ways=5)
    step = bare_step(model.to(on))
    return lambda: step(episode)


def _line(
    setting: Setting,
    name: str,
    values: Sequence[int],
    amounts: Sequence[int],
    step_of: Callable[[int], Callable[[], None]],
) -> Iterator[Comparison]:
    """A comparison for each value: the rate of steps, against that on the line fitted to the costs of all values."""
    rates = [_rates(setting, step_of(value)) for value in values]
    costs = [1 / statistics.median(of_value) for of_value in rates]
    slope, start = np.polyfit(amounts, costs, 1, w=1 / np.asarray(costs))  # so that errors are relative
    for value, amount, of_value in zip(values, amounts, rates, strict=True):
        line = 1 / (start + slope * amount)
        median = statistics.median(of_value)
        spread = min(of_value) / line, max(of_value) / line
        what = f"MAML's cost by {name}: {value}, against a straight line"
        yield Comparison(what, "steps/s", median, line, median / line, spread, setting.repeats)


def _rates(setting: Setting, step: Callable[[], None]) -> list[float]:
    started = time.monotonic()
    while time.monotonic() - started < _WARMING_SECONDS:  # one small step would not warm up memory and threads
        step()
        synchronise(setting.device)
    rates = []
    for _ in range(setting.repeats):
        with stopwatch(setting.device) as elapsed:
            step()
        rates.append(1 / elapsed[0])
    return rates
