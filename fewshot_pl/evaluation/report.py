"""The report of an evaluation: a self-contained page, and its plots as files."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from fewshot_pl.evaluation.files import latex
from fewshot_pl.evaluation.hardest import hardest_classes
from fewshot_pl.evaluation.outcome import Outcome, caption, difference_sentence, table_rows, title
from fewshot_pl.evaluation.plots import difference_plot, episodes_plot, grid_plot, reliability_plot
from fewshot_pl.pages import data_uri, page
from fewshot_pl.whole_files import save_text

_DPI = 150


class Picture(NamedTuple):
    """A plot within the page."""

    alt: str
    source: str  # a data URI


class Section(NamedTuple):
    """The part of the page about one outcome."""

    title: str
    checkpoint: str
    pictures: list[Picture]
    hardest: list[dict[str, Any]]


def write_report(outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Write ``report.html`` and its plots, as PNG and SVG, into a folder; the page needs none of the other files."""
    grid = grid_plot(outcomes)
    content = page(
        "evaluation.html",
        title=title(outcomes),
        caption=caption(outcomes),
        rows=table_rows(outcomes),
        differences=[difference_sentence(outcome) for outcome in outcomes if outcome.difference],
        grid=_saved(grid, folder, "grid", "The figures against ways and shots") if grid else None,
        sections=list(_sections(outcomes, folder)),
        latex=latex(outcomes).splitlines(),
        versions=outcomes[0].result["versions"],
    )
    save_text(content, folder / "report.html")
    return folder / "report.html"


def _sections(outcomes: Sequence[Outcome], folder: Path) -> Iterator[Section]:
    first = outcomes[0]
    for number, outcome in enumerate(outcomes, 1):
        if outcome.difference is None:
            first = outcome  # of its kind of task
        plots = {
            "episodes": (episodes_plot(outcome), "How the figures of single episodes are distributed"),
            "calibration": (reliability_plot(outcome), "Accuracy against confidence"),
            "difference": (
                difference_plot(outcome, first) if outcome.difference else None,
                "How the differences of single episodes are distributed",
            ),
        }
        pictures = [_saved(plot, folder, f"{number}-{name}", alt) for name, (plot, alt) in plots.items() if plot]
        yield Section(f"{outcome.label}, {outcome.task}", outcome.result["checkpoint"], pictures, _hardest(outcome))


def _hardest(outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            "name": found.name,
            "accuracy": f"{100 * found.accuracy:.1f} %",
            "counts": f"{found.num_right} of {found.num_queries}",
            "source": _image_uri(found.images),
        }
        for found in hardest_classes(outcome)
    ]


def _saved(plot: Figure, folder: Path, name: str, alt: str) -> Picture:
    for kind in ("png", "svg"):
        plot.savefig(folder / f"{name}.{kind}", dpi=_DPI)
    return Picture(alt, data_uri((folder / f"{name}.png").read_bytes(), "png"))


def _image_uri(image: NDArray[np.float32]) -> str:
    file = io.BytesIO()
    Image.fromarray((255 * image).round().astype(np.uint8)).save(file, "PNG")
    return data_uri(file.getvalue(), "png")
