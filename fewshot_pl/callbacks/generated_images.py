"""GeneratedImages: images generated for a task, beside the task's real images, as a picture in TensorBoard."""

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import LightningModule
from torch import Tensor

from fewshot_pl.argument_types import check_at_least
from fewshot_pl.callbacks.episode_picture import SUPPORT_COLOR, visible
from fewshot_pl.callbacks.validation_picture import ValidationPicture
from fewshot_pl.episode import Episode

_COLUMNS = 10
_INCHES = 0.9  # of one image


class GeneratedImages(ValidationPicture):
    """Writes images generated for the first task of each validation to TensorBoard, under ``val/generated_images``.

    Works with every algorithm that has a method ``generated_images(support_x)``, from [N*K, C, H, W] to images of the
    same shape; others have no such picture.

    Args:
        every_n_epochs: epochs from one picture to the next.
        max_images: support images shown, and as many generated ones.
    """

    tag = "val/generated_images"

    def __init__(self, every_n_epochs: int = 1, max_images: int = 20) -> None:
        super().__init__(every_n_epochs)
        check_at_least(f"{type(self).__name__}: ", 1, max_images=max_images)
        self.max_images = max_images

    def figure(self, pl_module: LightningModule, episode: Episode, logits: Tensor) -> Figure | None:
        generated_images = getattr(pl_module, "generated_images", None)
        if generated_images is None:
            return None
        support_x = episode.support_x[0]
        return generated_images_figure(support_x, generated_images(support_x), self.max_images)


def generated_images_figure(support_x: Tensor, generated: Tensor, max_images: int = 20) -> Figure:
    """The support of a task, framed, above images that were generated for it, each stretched over its own range.

    Args:
        support_x: [N*K, C, H, W].
        generated: [n, C, H, W].
        max_images: images shown of each kind.
    """
    sheets = [image_sheet(images[:max_images]) for images in (support_x, generated)]
    width = max(sheet.shape[1] for sheet in sheets)
    heights = [sheet.shape[0] for sheet in sheets]
    per_inch = support_x.shape[-1] / _INCHES
    size = max(width / per_inch, 3.0), sum(heights) / per_inch + 0.8
    figure = Figure(figsize=size, dpi=100, facecolor="white")
    rows = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=1 - 0.35 / size[1], hspace=0.8 / size[1])
    titles = _title("support", len(support_x), max_images), _title("generated for it", len(generated), max_images)
    for axes, sheet, title, color in zip(rows, sheets, titles, (SUPPORT_COLOR, "black"), strict=True):
        axes.imshow(sheet)
        axes.set_anchor("W")
        axes.set_axis_off()
        axes.set_title(title, fontsize=9, color=color, loc="left")
    return figure


def image_sheet(images: Tensor) -> NDArray[np.float32]:
    """Images [n, C, H, W] in rows, with a white line between them, as RGB [h, w, 3]."""
    cells = np.pad(visible(images, torch.arange(len(images))), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)
    blank = np.ones((-len(cells) % min(_COLUMNS, len(cells)), *cells.shape[1:]), dtype=cells.dtype)
    rows = np.concatenate([cells, blank]).reshape(-1, min(_COLUMNS, len(cells)), *cells.shape[1:])
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])


def _title(name: str, count: int, max_images: int) -> str:
    return name if count <= max_images else f"{name}, {max_images} of {count}"
