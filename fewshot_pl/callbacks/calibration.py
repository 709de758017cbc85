"""CalibrationPicture: whether predicted probabilities can be trusted, as a picture in TensorBoard."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pytorch_lightning import LightningModule, Trainer

from fewshot_pl.algorithms.base import FewShotAlgorithm
from fewshot_pl.callbacks.observer import Observer, show, writers
from fewshot_pl.metrics import ConfidenceBins, EpisodeMeasures

TAG = "val/calibration"
_BAR, _GAP, _LINE = "#5b8bd0", "#d6212b", "#8a8f98"


class CalibrationPicture(Observer):
    """Writes a reliability diagram of each validation to TensorBoard, under ``val/calibration``.

    It shows the bins that ``val/ece`` was computed from, over all episodes and devices.

    Args:
        every_n_epochs: epochs from one picture to the next.
    """

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.is_due(trainer) or not writers(trainer) or not isinstance(pl_module, FewShotAlgorithm):
            return
        measures = pl_module.measures["val"]
        if isinstance(measures, EpisodeMeasures) and measures.calibration.bins is not None:
            show(trainer, TAG, calibration_figure(measures.calibration.bins))


def calibration_figure(bins: ConfidenceBins) -> Figure:
    """The accuracy of the queries in each confidence bin, its gap to their mean confidence, and their number."""
    figure = Figure(figsize=(4.6, 5.0), dpi=110, facecolor="white", layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    total = bins.num_queries.sum()
    confidence, accuracy = ((values * bins.num_queries).sum() / total for values in (bins.confidence, bins.accuracy))
    belief = "over-confident" if confidence > accuracy else "under-confident"
    upper.set_title(f"ECE {bins.ece:.1%}, {belief}", loc="left", fontsize=11, weight="bold")
    _draw_gaps(upper, bins)
    edges = torch.linspace(0, 1, len(bins.num_queries) + 1)
    lower.stairs(bins.num_queries / total, edges, fill=True, color=_LINE)
    lower.set(xlabel="confidence: probability of the predicted class", ylabel="queries", xlim=(0, 1))
    for value, color, name, side in ((accuracy, _BAR, "accuracy", "left"), (confidence, _GAP, "confidence", "right")):
        lower.axvline(float(value), color=color, linewidth=1.5)
        lower.set_title(f"mean {name} {value:.1%}", color=color, loc=side, fontsize=9)
    for axis in (upper.yaxis, lower.xaxis, lower.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_gaps(axes: Axes, bins: ConfidenceBins) -> None:
    width = 1 / len(bins.num_queries)
    filled = bins.num_queries > 0
    centers = ((torch.arange(len(bins.num_queries)) + 0.5) * width)[filled]
    confidence, accuracy = bins.confidence[filled], bins.accuracy[filled]
    axes.bar(centers, accuracy, width * 0.94, color=_BAR, label="accuracy")
    gap: Any = {"facecolor": "none", "hatch": "//////", "edgecolor": _GAP, "linewidth": 0.8}
    axes.bar(centers, confidence - accuracy, width * 0.94, bottom=accuracy, label="gap to the confidence", **gap)
    axes.plot((0, 1), (0, 1), "--", color=_LINE, linewidth=1.2)
    axes.set(ylim=(0, 1), ylabel="accuracy of the queries")
    axes.legend(loc="upper left", fontsize=8, frameon=False)
