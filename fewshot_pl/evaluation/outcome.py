"""Outcome: what one checkpoint achieved on one kind of task."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.metrics import EpisodeRecords, mean_and_ci95
from fewshot_pl.results import episodes_of, result_cells, task_name


class Difference(NamedTuple):
    """The mean over episodes of the paired difference from another model's figures on the same episodes."""

    mean: float
    ci95: float | None  # None if there is only one episode
    other: str  # the other model's label

    @property
    def verdict(self) -> str:
        """Whether it is larger than the half-width of its interval, in words."""
        if self.ci95 is None:
            return "and one episode has no interval: pass a larger --num_episodes"
        if abs(self.mean) > self.ci95:
            return "larger than its 95% interval"
        return "not larger than its 95% interval: these episodes do not tell them apart"


class Outcome(NamedTuple):
    """What one checkpoint achieved on one kind of task."""

    label: str
    result: dict[str, Any]
    data: EpisodicDataModule
    records: EpisodeRecords | None = None  # where they were asked for
    difference: Difference | None = None

    @property
    def task(self) -> str:
        """The kind of tasks, such as "5-way 1-shot"."""
        return task_name(self.result)

    @property
    def figure(self) -> str:
        """The name of what was measured on each episode: ``accuracy`` or ``mse``."""
        return "mse" if "mse" in self.result else "accuracy"

    def shown(self, value: float, sign: str = "") -> str:
        """A value of the figure as text: an accuracy in percent, a squared error unscaled."""
        return f"{value:{sign}.3f}" if self.figure == "mse" else f"{100 * value:{sign}.2f}"

    def shown_mean(self, mean: float, ci95: float | None, sign: str = "", between: str = "±") -> str:
        """A mean of the figure with its interval, if it has one, as text."""
        shown = self.shown(mean, sign)
        return shown if ci95 is None else f"{shown} {between} {self.shown(ci95)}"


def paired_difference(outcome: Outcome, first: Outcome) -> Difference:
    """The mean over episodes of the outcome's figure minus the first's, with its 95% confidence interval."""
    values = differences(outcome, first)
    mean, ci95 = mean_and_ci95(values)
    return Difference(float(mean), float(ci95) if len(values) > 1 else None, first.label)


def differences(outcome: Outcome, first: Outcome) -> Tensor:
    """The outcome's figure minus the first's on each episode [E]."""
    assert outcome.records is not None and first.records is not None
    return outcome.records.figures.double() - first.records.figures.double()


def difference_sentence(outcome: Outcome) -> str:
    """Whether the outcome differs from the first one, in one line."""
    assert outcome.difference is not None
    unit = "" if outcome.figure == "mse" else " points"
    difference = f"{_difference_cell(outcome)}{unit}, {outcome.difference.verdict}"
    return f"{outcome.label} less {outcome.difference.other}, {outcome.task}: {difference}"


def table_rows(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """The cells of each outcome's table row, by column; a comparison adds the model's label and its difference."""
    if not is_comparison(outcomes):
        return [result_cells(outcome.result) for outcome in outcomes]
    rows = []
    for outcome in outcomes:
        cells = result_cells(outcome.result)
        if _is_one_task(outcomes):
            cells.pop("task")
        rows.append({"model": outcome.label, **cells, "difference": _difference_cell(outcome)})
    return rows


def _difference_cell(outcome: Outcome) -> str:
    """The paired difference with its interval; a dash for the model that the others are compared with."""
    if outcome.difference is None:
        return "–"
    mean, ci95, _ = outcome.difference
    return outcome.shown_mean(mean, ci95, "+")


def is_comparison(outcomes: Sequence[Outcome]) -> bool:
    """Whether the outcomes are those of several checkpoints."""
    return len({outcome.label for outcome in outcomes}) > 1


def _is_one_task(outcomes: Sequence[Outcome]) -> bool:
    """Whether all outcomes are on the same episodes."""
    return len({outcome.task for outcome in outcomes}) == 1


def title(outcomes: Sequence[Outcome]) -> str:
    """What was evaluated on what, as in "ProtoNet on Glyphs, test split"."""
    result = outcomes[0].result
    names = " and ".join(dict.fromkeys(outcome.result["algorithm"] for outcome in outcomes))
    return f"{names} on {result['data']}, {result['split']} split"


def caption(outcomes: Sequence[Outcome]) -> str:
    """The caption: the episodes, and where normalisation takes its statistics from."""
    result = outcomes[0].result
    task = f"{outcomes[0].task}, " if is_comparison(outcomes) and _is_one_task(outcomes) else ""
    return f"{task}{episodes_of(result)}, norm: {_norms(outcomes)}"


def _norms(outcomes: Sequence[Outcome]) -> str:
    """The norm of all models, or each norm with the models that have it."""
    labels: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        labels.setdefault(outcome.result["norm"], {})[outcome.label] = None
    if len(labels) == 1:
        return next(iter(labels))
    return "; ".join(f"{norm} ({', '.join(who)})" for norm, who in labels.items())
