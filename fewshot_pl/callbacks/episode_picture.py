"""EpisodePicture: what the model sees and predicts, as a picture in TensorBoard."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from torch import Tensor

from fewshot_pl.algorithms.base import FewShotAlgorithm
from fewshot_pl.argument_types import check_at_least
from fewshot_pl.callbacks.validation_picture import ValidationPicture
from fewshot_pl.episode import UNKNOWN, Episode

RIGHT_COLOR, WRONG_COLOR, UNKNOWN_COLOR, SUPPORT_COLOR = "#2e9e4f", "#d6212b", "#8a8f98", "#3565b0"
_FAINT_COLOR = "#eaf0f9"

_INCHES, _DPI = 0.9, 100  # of one image cell; all lengths below are in cells
_LEFT, _TITLE, _CAPTION, _BETWEEN = 0.6, 0.75, 0.5, 0.4  # class name, title, text under a row, support | queries
_STEP = 1.1  # from one image to the next


class EpisodePicture(ValidationPicture):
    """Writes the first task of each validation to TensorBoard, under ``val/episode``.

    Works with every algorithm whose ``validation_step`` returns its ``"logits"`` [T, N*Q, N].

    Args:
        every_n_epochs: epochs from one picture to the next.
        max_ways: classes shown, one per row.
        max_queries: queries shown per class.
    """

    tag = "val/episode"

    def __init__(self, every_n_epochs: int = 1, max_ways: int = 5, max_queries: int = 8) -> None:
        super().__init__(every_n_epochs)
        check_at_least(f"{type(self).__name__}: ", 1, max_ways=max_ways, max_queries=max_queries)
        self.max_ways = max_ways
        self.max_queries = max_queries

    def figure(self, pl_module: LightningModule, episode: Episode, logits: Tensor) -> Figure | None:
        if episode.is_regression:
            return None
        if isinstance(pl_module, FewShotAlgorithm):  # whose probabilities need not be a softmax of its logits
            logits = pl_module.class_log_probabilities(logits)
        return episode_figure(episode, logits, self.max_ways, max_queries=self.max_queries)


def episode_figure(
    episode: Episode, logits: Tensor, max_ways: int = 5, max_shots: int = 5, max_queries: int = 8
) -> Figure:
    """The first task of an Episode: a row per class with its support images, framed, then its queries.

    Each query is captioned "true → predicted class, probability", red where wrong. Queries of unknown class
    (-100) have a row of their own at the bottom.

    Args:
        episode: images [T, N*K, C, H, W] and [T, N*Q, C, H, W]; classes may differ in shots and queries.
        logits: of the queries, [T, N*Q, N], whose softmax is the classes' probabilities.
        max_ways: classes shown.
        max_shots: support images shown per class.
        max_queries: queries shown per class.
    """
    rows = _rows(episode, logits, max_ways, max_shots, max_queries)
    height, width = episode.query_x.shape[-2:]
    cell = height / width  # height of an image; its width is 1
    num_support = max(len(row.support) for row in rows)
    first_query = _LEFT + num_support * _STEP + _BETWEEN
    size = (
        max(first_query + max(len(row.query) for row in rows) * _STEP, 6.5),
        _TITLE + len(rows) * (cell + _CAPTION) + 0.05,
    )

    figure = Figure(figsize=(size[0] * _INCHES, size[1] * _INCHES), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    for index, row in enumerate(rows):
        _draw_row(axes, row, _TITLE + index * (cell + _CAPTION), first_query, cell)
    axes.text(0.1, 0.2, _title(episode, logits, max_ways), fontsize=11, weight="bold", va="center")
    axes.text(_LEFT, 0.52, "support", fontsize=9, color=SUPPORT_COLOR, va="center")
    axes.text(first_query, 0.52, "queries: true → predicted class, probability", fontsize=9, va="center")
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    return figure


class _Answer(NamedTuple):
    """One query: its true class, and the predicted class with the model's probability of it."""

    true: int  # -100 where unknown
    predicted: int
    probability: float

    @property
    def color(self) -> str:
        if self.true < 0:
            return UNKNOWN_COLOR
        return RIGHT_COLOR if self.true == self.predicted else WRONG_COLOR

    @property
    def caption(self) -> str:
        return f"{_class_name(self.true)} → {self.predicted}  {self.probability:.0%}"


class _Row(NamedTuple):
    """What is drawn for one class."""

    name: str
    support: NDArray[np.float32]  # [k, H, W, 3]
    num_shots: int  # drawn or not
    query: NDArray[np.float32]  # [q, H, W, 3]
    answers: list[_Answer]


def _rows(episode: Episode, logits: Tensor, max_ways: int, max_shots: int, max_queries: int) -> list[_Row]:
    support_y, query_y = episode.support_y[0].cpu(), episode.query_y[0].cpu()
    probabilities, predictions = logits[0].detach().float().softmax(-1).cpu().max(-1)
    classes = sorted(set(support_y.tolist()))[:max_ways]
    rows = []
    for label in [*classes, UNKNOWN] if bool((query_y < 0).any()) else classes:
        shots = (support_y == label).nonzero().flatten()
        queries = (query_y == label).nonzero().flatten()[:max_queries]
        answers = [_Answer(label, int(predictions[i]), float(probabilities[i])) for i in queries]
        support = visible(episode.support_x[0], shots[:max_shots])
        rows.append(_Row(_class_name(label), support, len(shots), visible(episode.query_x[0], queries), answers))
    return rows


def visible(images: Tensor, indices: Tensor) -> NDArray[np.float32]:
    """The chosen images as RGB in 0..1, [n, H, W, 3], each stretched from its darkest to its brightest value.

    One channel is grey, three are colour; for any other number, the mean is shown in grey.
    """
    chosen = images[indices.to(images.device)].detach().cpu().float().numpy().transpose(0, 2, 3, 1)  # [n, H, W, C]
    if chosen.shape[-1] != 3:
        chosen = chosen.mean(-1, keepdims=True).repeat(3, -1)
    chosen = np.nan_to_num(chosen)
    low, high = chosen.min((1, 2, 3), keepdims=True), chosen.max((1, 2, 3), keepdims=True)
    pixels: NDArray[np.float32] = (chosen - low) / np.maximum(high - low, 1e-8)
    return pixels


def _draw_row(axes: Axes, row: _Row, top: float, first_query: float, cell: float) -> None:
    axes.text(_LEFT / 2, top + cell / 2, row.name, fontsize=15, weight="bold", ha="center", va="center")
    if len(row.support):
        _draw_support(axes, row, top, cell)
    for index, (image, answer) in enumerate(zip(row.query, row.answers, strict=True)):
        _draw_query(axes, image, answer, first_query + index * _STEP, top, cell)


def _draw_support(axes: Axes, row: _Row, top: float, cell: float) -> None:
    corner, size = (_LEFT - 0.05, top - 0.05), (len(row.support) * _STEP, cell + 0.1)
    axes.add_patch(Rectangle(corner, *size, facecolor=_FAINT_COLOR, edgecolor=SUPPORT_COLOR, linewidth=1.5, zorder=-1))
    for index, image in enumerate(row.support):
        _draw_image(axes, image, _LEFT + index * _STEP, top, cell)
    shown = "" if len(row.support) == row.num_shots else f"{len(row.support)} of "
    shots = f"{shown}{row.num_shots} shot{'s' * (row.num_shots > 1)}"
    axes.text(_LEFT, top + cell + 0.2, shots, fontsize=8, color=SUPPORT_COLOR, va="center")


def _draw_query(axes: Axes, image: NDArray[np.float32], answer: _Answer, left: float, top: float, cell: float) -> None:
    linewidth, weight = (3.0, "bold") if answer.color == WRONG_COLOR else (1.5, "normal")
    _draw_image(axes, image, left, top, cell)
    axes.add_patch(Rectangle((left, top), 1, cell, fill=False, edgecolor=answer.color, linewidth=linewidth))
    style: Any = {"fontsize": 8, "color": answer.color, "weight": weight, "ha": "center", "va": "center"}
    axes.text(left + 0.5, top + cell + 0.2, answer.caption, **style)


def _draw_image(axes: Axes, image: NDArray[np.float32], left: float, top: float, cell: float) -> None:
    axes.imshow(image, extent=(left, left + 1, top + cell, top), aspect="auto")


def _title(episode: Episode, logits: Tensor, max_ways: int) -> str:
    num_ways = logits.shape[-1]
    ways = f"{num_ways} ways" if num_ways <= max_ways else f"first {max_ways} of {num_ways} ways"
    known = episode.query_y[0] >= 0
    num_known = int(known.sum())
    if not num_known:
        return f"{len(known)} queries of unknown class, {ways}"
    num_right = int((logits[0].argmax(-1) == episode.query_y[0])[known].sum())
    return f"accuracy {num_right / num_known:.1%}: {num_right} of {num_known} queries right, {ways}"


def _class_name(label: int) -> str:
    return "?" if label < 0 else str(label)
