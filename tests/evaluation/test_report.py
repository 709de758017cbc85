"""The report of an evaluation: self-contained, safe, and with the evaluation's figures."""

import base64
import io
import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fewshot_pl.benchmarks import ImageFolder
from fewshot_pl.checkpoints import load_algorithm, opened_checkpoint
from fewshot_pl.cli import evaluate

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects text, tags and image sources of a page whose tags must be balanced."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.images: list[dict[str, str | None]] = []
        self.links: list[str | None] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "td":
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open:
            self.cells[-1] += data


@pytest.fixture
def report(checkpoints: dict[str, str], cpu: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """A function that evaluates with flags, and returns the folder, the page and what was printed."""

    def report(*flags: str) -> tuple[Path, Page, str]:
        folder = tmp_path / "new" / "report"
        assert evaluate([*(flag.format(**checkpoints) for flag in flags), *cpu, "--report", str(folder)]) == 0
        source = (folder / "report.html").read_text("utf-8")
        assert not re.search(r"https?:|url\(|@import", source)
        return folder, Page(source), capsys.readouterr().out

    return report


def pictures_of(folder: Path) -> set[str]:
    for file in folder.glob("*.png"):
        assert np.asarray(Image.open(file).convert("L")).std() > 0
    for file in folder.glob("*.svg"):
        assert file.read_text("utf-8").rstrip().endswith("</svg>")
    png, svg = ({file.stem for file in folder.glob(f"*.{kind}")} for kind in ("png", "svg"))
    assert png == svg
    return png


def hardest_rows(page: Page) -> list[tuple[str, str, str]]:
    """Class, accuracy and counts in the table of the hardest classes."""
    cells = page.cells
    first = next(number for number, cell in enumerate(cells) if re.fullmatch(r"\d+ of \d+", cell)) - 2
    return [(cells[n], cells[n + 1], cells[n + 2]) for n in range(first, len(cells), 4)]


def test_one_checkpoint(report: Any, checkpoints: dict[str, str]) -> None:
    folder, page, printed = report("--ckpt_path", "{first}")
    assert pictures_of(folder) == {"1-episodes", "1-calibration"}
    assert f"Report: {folder / 'report.html'}" in printed.replace("\n", "")
    assert all(link and link.startswith("data:image/png;base64,") for link in page.links)
    for image in page.images:
        content = base64.b64decode((image["src"] or "").partition(",")[2])
        assert Image.open(io.BytesIO(content)).size[0] > 1 and image["alt"]
    (accuracy,) = re.findall(r"│ 3-way 1-shot │ (\S+) %", printed)
    assert f"{accuracy} %" in page.cells
    assert rf"ProtoNet & 3-way 1-shot & ${accuracy} \pm" in page.text


def test_names_of_classes_are_text(report: Any) -> None:
    _, page, _ = report("--ckpt_path", "{first}")
    name = "<script>alert('&')<"
    assert name in page.cells and "script" not in page.tags
    assert any(image["alt"] == f"images of {name}" for image in page.images)


def test_the_hardest_classes_are_those_of_a_plain_count(report: Any, checkpoints: dict[str, str]) -> None:
    _, page, _ = report("--ckpt_path", "{first}")
    model = load_algorithm(checkpoints["first"])
    data = ImageFolder(**opened_checkpoint(checkpoints["first"])["datamodule_hyper_parameters"])
    data.prepare_data()
    data.setup("test")
    store, counts = data.stores["test"], defaultdict(lambda: [0, 0])
    for number in range(data.num_episodes["test"]):
        episode, indices = data.fixed_episodes("test", number), data.sampler("test")(0, number, 1)
        with torch.no_grad():
            right = (model(episode)[0].argmax(-1) == episode.query_y[0]).tolist()
        for image, is_right in zip(indices.query.flatten().tolist(), right, strict=True):
            (owner,) = (
                name
                for name, start, end in zip(store.class_names, store.class_starts, store.class_starts[1:], strict=False)
                if start <= image < end
            )
            counts[owner][0] += is_right
            counts[owner][1] += 1
    rows = hardest_rows(page)
    assert {(name, shown) for name, _, shown in rows} == {
        (n, f"{right} of {all_}") for n, (right, all_) in counts.items()
    }
    shares = [counts[name][0] / counts[name][1] for name, _, _ in rows]
    assert shares == sorted(shares) and len(set(shares)) > 1
    assert [share for _, share, _ in rows] == [f"{100 * share:.1f} %" for share in shares]


def test_a_grid_has_a_picture_over_its_cells(report: Any) -> None:
    folder, page, _ = report("--ckpt_path", "{first}", "--shots", "1", "2")
    single = {f"{number}-{name}" for number in (1, 2) for name in ("episodes", "calibration")}
    assert pictures_of(folder) == {"grid", *single}
    assert page.text.count("Hardest classes") == 2
    assert r"\begin{tabular}{llr}" in page.text


def test_a_comparison_has_its_differences(report: Any) -> None:
    folder, page, printed = report("--compare", "{first}", "{maml}")
    single = {f"{number}-{name}" for number in (1, 2) for name in ("episodes", "calibration")}
    assert pictures_of(folder) == {"2-difference", *single}
    (sentence,) = [line for line in printed.splitlines() if line.startswith("MAML less ProtoNet")]
    assert sentence in page.text


def test_a_regression_has_no_classes(report: Any) -> None:
    folder, page, _ = report("--compare", "{sinusoid}", "{other sinusoid}")
    assert pictures_of(folder) == {"1-episodes", "2-episodes", "2-difference"}
    assert "Hardest classes" not in page.text and "points" in page.text


def test_validation_classes_are_those_shown(report: Any) -> None:
    _, page, _ = report("--ckpt_path", "{first}", "--split", "val")
    assert hardest_rows(page) and all(name.startswith("val") for name, _, _ in hardest_rows(page))
