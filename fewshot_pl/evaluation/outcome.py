"""Outcome: what one checkpoint achieved on one kind of task."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.metrics import EpisodeRecords, mean_and_ci95
from fewshot_pl.results import result_cells, task_name


class Difference(NamedTuple):
    """The mean over episodes of the paired difference from another model's figures on the same episodes."""

    mean: float
    ci95: float
    other: str  # the other model's label

    @property
    def is_clear(self) -> bool:
        """Whether it is larger than the half-width of its interval."""
        return abs(self.mean) > self.ci95


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


def paired_difference(outcome: Outcome, first: Outcome) -> Difference:
    """The mean over episodes of the outcome's figure minus the first's, with its 95% confidence interval."""
    mean, ci95 = mean_and_ci95(differences(outcome, first))
    return Difference(float(mean), float(ci95), first.label)


def differences(outcome: Outcome, first: Outcome) -> Tensor:
    """The outcome's figure minus the first's on each episode [E]."""
    assert outcome.records is not None and first.records is not None
    return outcome.records.figures.double() - first.records.figures.double()


def difference_sentence(outcome: Outcome) -> str:
    """Whether the outcome differs from the first one, in one line."""
    assert outcome.difference is not None
    verdict = (
        "larger than its 95% interval"
        if outcome.difference.is_clear
        else "not larger than its 95% interval: these episodes do not tell them apart"
    )
    unit = "" if outcome.figure == "mse" else " points"
    return (
        f"{outcome.label} less {outcome.difference.other}, {outcome.task}: {_difference_cell(outcome)}{unit}, {verdict}"
    )


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
    return f"{outcome.shown(mean, '+')} ± {outcome.shown(ci95)}"


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
    return f"{task}{result['num_episodes']} episodes of seed {result['episode_seed']}, norm: {_norms(outcomes)}"


def _norms(outcomes: Sequence[Outcome]) -> str:
    """The norm of all models, or each norm with the models that have it."""
    labels: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        labels.setdefault(outcome.result["norm"], {})[outcome.label] = None
    if len(labels) == 1:
        return next(iter(labels))
    return "; ".join(f"{norm} ({', '.join(who)})" for norm, who in labels.items())
