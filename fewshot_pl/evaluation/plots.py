"""The plots of an evaluation."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fewshot_pl.callbacks.calibration import calibration_figure
from fewshot_pl.evaluation.outcome import Outcome, differences
from fewshot_pl.metrics import confidence_bins
from fewshot_pl.results import counted_episodes

_BLUE, _RED = "#3565b0", "#d6212b"
_SIZE = (5.2, 3.6)
_AXES = {"num_shots": "shots", "num_ways": "ways"}
_EACH = {"num_shots": "{}-shot", "num_ways": "{}-way"}
_NUM_BARS = 20


def grid_plot(outcomes: Sequence[Outcome]) -> Figure | None:
    """The plot of each outcome's figure against shots and ways, whichever vary; None if neither does."""
    varied = [name for name in _AXES if len({outcome.result[name] for outcome in outcomes}) > 1]
    if not varied:
        return None
    figure = Figure(figsize=(_SIZE[0] * len(varied), _SIZE[1]), layout="constrained")
    panels = figure.subplots(1, len(varied), squeeze=False)[0]
    for axes, name in zip(panels, varied, strict=True):
        _draw_lines(axes, outcomes, name)
    return figure


def _draw_lines(axes: Axes, outcomes: Sequence[Outcome], name: str) -> None:
    (other,) = _AXES.keys() - {name}

    def line(outcome: Outcome) -> tuple[str, int]:
        return outcome.label, outcome.result[other]

    for (label, value), members in groupby(sorted(outcomes, key=line), line):
        points = [(o.result[name], _percent(o, o.result[o.figure]), _percent(o, _length(o))) for o in members]
        x, y, ci95 = zip(*sorted(points), strict=True)
        series = label if outcomes[0].figure == "mse" else f"{label}, {_EACH[other].format(value)}"
        axes.errorbar(x, y, ci95, marker="o", markersize=4, capsize=3, label=_plain(series))
    axes.set(xlabel=_AXES[name], ylabel=_unit(outcomes[0]), xticks=sorted({o.result[name] for o in outcomes}))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def episodes_plot(outcome: Outcome) -> Figure:
    """The histogram of the figures of single episodes, with their mean."""
    assert outcome.records is not None
    values = _percent(outcome, outcome.records.figures.double())
    title = f"{outcome.task}: {counted_episodes(len(values))}"
    return _histogram(
        values, _percent(outcome, outcome.result[outcome.figure]), title, _unit(outcome, " of an episode")
    )


def difference_plot(outcome: Outcome, first: Outcome) -> Figure:
    """The histogram of the paired differences of single episodes, with their mean."""
    assert outcome.difference is not None
    values = _percent(outcome, differences(outcome, first))
    title = _plain(f"{outcome.task}\n{outcome.label} less {first.label}")
    return _histogram(
        values, _percent(outcome, outcome.difference.mean), title, _unit(outcome, " difference of an episode")
    )


def reliability_plot(outcome: Outcome) -> Figure | None:
    """The reliability diagram: accuracy against confidence in ECE's bins; None for regression."""
    if outcome.records is None or outcome.records.confidence is None or outcome.records.correct is None:
        return None
    present = ~outcome.records.confidence.isnan()  # an episode may have fewer queries than another
    queries = outcome.records.confidence[present], outcome.records.correct[present]
    figure = calibration_figure(confidence_bins(*(part.double() for part in queries)))
    figure.suptitle(outcome.task, fontsize=11)
    return figure


def _histogram(values: Tensor, mean: float, title: str, xlabel: str) -> Figure:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    axes.hist(values.numpy(), bins=_NUM_BARS, color=_BLUE, edgecolor="white")
    axes.set_title(title, fontsize=11)
    axes.axvline(mean, color=_RED, label=f"mean {mean:.4g}")
    axes.set(xlabel=xlabel, ylabel="episodes")
    axes.legend(fontsize=8)
    return figure


def _length(outcome: Outcome) -> float:
    """The half-width of an outcome's interval; nan, which is not drawn, if it has none."""
    ci95: float | None = outcome.result["ci95"]
    return math.nan if ci95 is None else ci95


def _percent(outcome: Outcome, value: Any) -> Any:
    return value if outcome.figure == "mse" else 100 * value


def _unit(outcome: Outcome, of: str = "") -> str:
    return f"squared error{of}" if outcome.figure == "mse" else f"accuracy{of}, %"


def _plain(text: str) -> str:
    """The text with its dollars escaped, between which matplotlib would see formulas."""
    return text.replace("$", r"\$")
