"""A run's comparisons as JSON, as a Markdown table and as a bar chart."""

import json
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from throughput.timing import Comparison

_PACKAGES = ("torch", "pytorch-lightning", "learn2learn", "numpy")


def circumstances(device: torch.device) -> dict[str, Any]:
    """What the figures depend on, other than the code."""
    versions = {package: version(package) for package in _PACKAGES}
    about = {"date": date.today().isoformat(), "device": _processor(), "threads": torch.get_num_threads()}
    if device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(device)
        about["TF32 in convolutions"] = torch.backends.cudnn.allow_tf32
    return about | versions


def write(folder: Path, comparisons: Sequence[Comparison], about: dict[str, Any]) -> None:
    """Write ``results.json``, ``circumstances.json``, ``results.md`` and ``results.png`` to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [comparison.as_dict() for comparison in comparisons]
    (folder / "results.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    (folder / "circumstances.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    (folder / "results.md").write_text(table(comparisons, about), encoding="utf-8")
    figure = chart(comparisons, about)
    canvas: Any = FigureCanvasAgg(figure)  # Any: matplotlib types its figures, not its canvases
    canvas.print_png(str(folder / "results.png"))


def table(comparisons: Sequence[Comparison], about: dict[str, Any]) -> str:
    """A Markdown table with a row per comparison, under a line with the circumstances."""
    lines = [_told(about), "", "| Work | Ours | Peer | Unit | Ratio | Lowest to highest |", "|---|---|---|---|---|---|"]
    for row in comparisons:
        low, high = row.spread
        figures = f"{row.ours:.4g} | {row.peer:.4g} | {row.unit} | {row.ratio:.2f} | {low:.2f} to {high:.2f}"
        lines.append(f"| {row.name} | {figures} |")
    return "\n".join(lines) + "\n"


def chart(comparisons: Sequence[Comparison], about: dict[str, Any]) -> Figure:
    """The ratios as bars on a logarithmic axis, with their spread; right of 1 we are faster."""
    figure = Figure(figsize=(11, 1.2 + 0.28 * len(comparisons)), layout="constrained")
    axes = figure.add_subplot()
    ratios = [row.ratio for row in comparisons]
    lengths = [[row.ratio - row.spread[0] for row in comparisons], [row.spread[1] - row.ratio for row in comparisons]]
    colours = ["#2e9e4f" if ratio >= 1 else "#d6212b" for ratio in ratios]
    axes.barh([row.name for row in comparisons], [ratio - 1 for ratio in ratios], left=1, color=colours, xerr=lengths)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="ratio of ours to the peer's")
    axes.set_title(_told(about), fontsize=8)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    return figure


def _told(about: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in about.items())


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
