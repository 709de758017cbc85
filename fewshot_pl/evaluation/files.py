"""The results of an evaluation for other programs: JSON, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fewshot_pl.evaluation.outcome import Outcome, is_comparison
from fewshot_pl.results import save_result
from fewshot_pl.whole_files import save_text

_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)

_PM = r"\pm"


def save_outcomes(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write results to a ``.json`` file, one as an object and several as a list, or to a ``.csv`` file, a row each."""
    records = [_record(outcome, is_comparison(outcomes)) for outcome in outcomes]
    if path.suffix == ".csv":
        save_text(_csv(records), path)
    else:
        save_result(records if len(records) > 1 else records[0], path)


def _record(outcome: Outcome, compared: bool) -> dict[str, Any]:
    if not compared:
        return outcome.result
    mean, ci95 = outcome.difference[:2] if outcome.difference else (None, None)
    return {**outcome.result, "label": outcome.label, "difference": mean, "difference_ci95": ci95}


def _csv(records: Sequence[dict[str, Any]]) -> str:
    plain = [{name: value for name, value in record.items() if not isinstance(value, dict)} for record in records]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(plain[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


def latex(outcomes: Sequence[Outcome]) -> str:
    r"""The row of one outcome, like ``ProtoNet & 5-way 1-shot & $50.03 \pm 0.67$ \\``; of several, a ``tabular``."""
    compared = is_comparison(outcomes)
    rows = [_latex_row(outcome, compared) for outcome in outcomes]
    if len(rows) == 1:
        return rows[0]
    figure = "Squared error" if outcomes[0].figure == "mse" else r"Accuracy (\%)"
    heads = ["Algorithm", "Task", figure, *(["Difference"] if compared else [])]
    begin = rf"\begin{{tabular}}{{ll{'r' * (len(heads) - 2)}}}"
    return "\n".join([begin, r"\hline", " & ".join(heads) + r" \\", r"\hline", *rows, r"\hline", r"\end{tabular}"])


def _latex_row(outcome: Outcome, compared: bool) -> str:
    figure, ci95 = outcome.result[outcome.figure], outcome.result["ci95"]
    cells = [escaped_latex(outcome.label), outcome.task, f"${outcome.shown_mean(figure, ci95, between=_PM)}$"]
    if compared and outcome.difference:
        mean, ci95, _ = outcome.difference
        cells.append(f"${outcome.shown_mean(mean, ci95, '+', _PM)}$")
    elif compared:
        cells.append("--")
    return " & ".join(cells) + r" \\"


def escaped_latex(text: str) -> str:
    """The text, escaped so that LaTeX prints it unchanged."""
    return text.translate(_LATEX)
