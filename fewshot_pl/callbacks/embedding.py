"""EmbeddingProjector: the features of a few test episodes, to explore in TensorBoard's projector."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from fewshot_pl.argument_types import check_at_least
from fewshot_pl.callbacks.episode_picture import visible
from fewshot_pl.callbacks.observer import KnowsClasses, writers

TAG = "test_embedding"  # also the name of a folder
COLUMNS = ["class", "set", "episode"]
_LARGEST_THUMBNAIL = 48


@runtime_checkable
class _Encodes(Protocol):
    """A LightningModule that computes features of images."""

    trainer: Trainer
    device: torch.device

    def encode(self, images: Tensor) -> Tensor:
        """The features [n, D] of images [n, C, H, W]."""


class Points(NamedTuple):
    """What the projector shows for n images."""

    features: Tensor  # [n, D]
    thumbnails: Tensor  # [n, 3, h, w], 0..1
    labels: list[list[str]]  # n rows of COLUMNS


class EmbeddingProjector(Callback):
    """Writes the features of the first test episodes, with class names and thumbnails, to TensorBoard's projector.

    Done once, at the end of a test, under ``test_embedding``. Each episode passes in its own batch, before any
    adaptation. Images that an algorithm generates for its support (``generated_images``) follow in another batch, with
    class and set "generated". Works with every algorithm that has a method ``encode``, on every image benchmark.

    Args:
        max_points: images shown.
        max_episodes: episodes that they come from.
    """

    def __init__(self, max_points: int = 500, max_episodes: int = 4) -> None:
        check_at_least(f"{type(self).__name__}: ", 1, max_points=max_points, max_episodes=max_episodes)
        self.max_points = max_points
        self.max_episodes = max_episodes

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data = getattr(trainer, "datamodule", None)
        if not writers(trainer) or not isinstance(pl_module, _Encodes) or not isinstance(data, KnowsClasses):
            return
        numbers = range(min(self.max_episodes, data.num_episodes["test"]))
        with trainer.precision_plugin.forward_context():
            parts = [_episode_points(pl_module, data, number, self.max_points // len(numbers)) for number in numbers]
        features, thumbnails = torch.cat([part.features for part in parts]), torch.cat([p.thumbnails for p in parts])
        labels = [row for part in parts for row in part.labels]
        for writer in writers(trainer):
            writer.add_embedding(features, labels, thumbnails, trainer.global_step, TAG, COLUMNS)


def _episode_points(model: _Encodes, data: KnowsClasses, number: int, max_points: int) -> Points:
    """The images of a test episode as points, evenly chosen if there are more than ``max_points``."""
    episode = data.fixed_episodes("test", number, 1)
    convert = model.trainer.precision_plugin.convert_input
    support_x, query_x = (convert(images[0]).to(model.device) for images in (episode.support_x, episode.query_x))
    batches = [torch.cat([support_x, query_x])]
    if (generated_images := getattr(model, "generated_images", None)) is not None:
        batches.append(generated_images(support_x))  # apart: in one batch, batch norm would tell them from real ones
    images = torch.cat(batches)
    features = torch.cat([model.encode(batch) for batch in batches])
    chosen = torch.arange(0, len(images), -(-len(images) // max(max_points, 1)))
    names, classes = data.class_names("test"), data.fixed_classes("test", number, 1)[0]
    sets = {"support": episode.support_y[0].tolist(), "query": episode.query_y[0].tolist()}
    rows = [[names[classes[label]], part, str(number)] for part, labels in sets.items() for label in labels]
    rows += [["generated", "generated", str(number)]] * (len(images) - len(rows))
    chosen_features = features[chosen.to(features.device)].flatten(1).float().cpu()
    return Points(chosen_features, _thumbnails(images, chosen), [rows[index] for index in chosen.tolist()])


def _thumbnails(images: Tensor, chosen: Tensor) -> Tensor:
    """The chosen images of [m, C, H, W] as thumbnails [n, 3, h, w] in 0..1."""
    thumbnails = torch.from_numpy(visible(images, chosen)).permute(0, 3, 1, 2)
    if thumbnails.shape[-1] > _LARGEST_THUMBNAIL:
        thumbnails = F.interpolate(thumbnails, (_LARGEST_THUMBNAIL, _LARGEST_THUMBNAIL), mode="area")
    return thumbnails
