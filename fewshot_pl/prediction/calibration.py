"""Finding out, on classes that training never saw, how sure a model is of images that belong to no class of a task."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.checkpoints import amend_checkpoint
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.data.episode_dataset import FixedEpisodes, IndexBatch
from fewshot_pl.data.episode_sampler import EpisodeSampler, EpisodeSize
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.episode import Episode
from fewshot_pl.prediction.rejection import KEY, Rejection, Score, auroc, calibrated, nearest_rejection, scores

_MOST_EPISODES = 100  # of some 150 images each
_NUM_SHOTS = (1, 5)  # beside those of the evaluation
FALSE_REJECT = 0.05  # unless a user says otherwise

Scores = dict[Score, NDArray[np.float64]]


def calibrate(model: FewShotAlgorithm, data: EpisodicDataModule, checkpoint: Path) -> dict[str, float] | None:
    """Write into a checkpoint when to call an image unknown, calibrated on the validation classes.

    Returns:
        What that does on the test classes, see ``measured_rejection``; None where there are too few classes to leave
        some out of a task, or no images.
    """
    if not isinstance(data, ImageDataModule):
        return None
    rejections = calibrated_rejections(model, data, "val")
    if not rejections:
        return None
    amend_checkpoint(checkpoint, {KEY: [rejection._asdict() for rejection in rejections]})
    return measured_rejection(model, data, rejections, "test")


def calibrated_rejections(model: FewShotAlgorithm, data: ImageDataModule, split: str) -> list[Rejection]:
    """A Rejection for each number of shots that the split's classes have the images for; none for too few classes."""
    num_ways = data.eval_size.num_ways
    pairs = {shots: known_and_unknown(model, data, split, shots) for shots in {*_NUM_SHOTS, data.eval_size.num_shots}}
    return [calibrated(*pair, num_ways, num_shots) for num_shots, pair in sorted(pairs.items()) if pair is not None]


def measured_rejection(
    model: FewShotAlgorithm, data: ImageDataModule, rejections: list[Rejection], split: str
) -> dict[str, float] | None:
    """The shares of known images rejected and of unknown images accepted on a split's classes, and the AUROC."""
    num_shots = data.eval_size.num_shots
    rejection, pair = nearest_rejection(rejections, num_shots), known_and_unknown(model, data, split, num_shots)
    if rejection is None or pair is None:
        return None
    known, unknown = (part[rejection.score] for part in pair)
    threshold = rejection.threshold(FALSE_REJECT)
    rates = {"false_reject": (known < threshold).mean(), "false_accept": (unknown >= threshold).mean()}
    return {**{name: float(rate) for name, rate in rates.items()}, "auroc": auroc(known, unknown)}


def known_and_unknown(
    model: FewShotAlgorithm, data: ImageDataModule, split: str, num_shots: int
) -> tuple[Scores, Scores] | None:
    """The scores of queries of a task's own classes, and of queries of as many other classes, over fixed episodes.

    None where the split has no other classes, or too few images to a class.
    """
    store, num_ways = data.stores[split], data.eval_size.num_ways
    num_rotations = data.num_rotations(split)
    num_others = min(num_ways, store.num_classes * num_rotations - num_ways)
    num_queries = min(data.eval_size.num_queries, int(np.diff(store.class_starts).min()) - num_shots)
    if num_others < 1 or num_queries < 1:
        return None
    sampler = EpisodeSampler(
        store, EpisodeSize(num_ways + num_others, num_shots, num_queries), data.seed, num_rotations
    )
    logits = []
    for episodes in FixedEpisodes(min(_MOST_EPISODES, data.num_episodes["val"]), data.eval_tasks_per_batch):
        batch = IndexBatch(split, sampler(*episodes))
        drawn = data.episode(move_data_to_device(batch, model.device))
        logits.append(_logits(model, drawn, num_ways, num_ways * num_shots))
    everything = torch.cat(logits)  # [T, (N + M)*Q, N]
    num_known = num_ways * num_queries
    return _scores(model, everything[:, :num_known]), _scores(model, everything[:, num_known:])


@torch.no_grad()
def _logits(model: FewShotAlgorithm, drawn: Episode, num_ways: int, num_support: int) -> Tensor:
    """The logits [T, (N + M)*Q, N] of the queries of all classes, where the first N classes have a support."""
    support_x, support_y = drawn.support_x[:, :num_support], drawn.support_y[:, :num_support]
    logits: Tensor = model(Episode(support_x, support_y, drawn.query_x, drawn.query_y, known_ways=num_ways))
    return logits


def _scores(model: FewShotAlgorithm, logits: Tensor) -> Scores:
    log_probabilities = model.class_log_probabilities(logits.double())
    return scores(*(values.flatten(0, 1).cpu().numpy() for values in (logits.double(), log_probabilities)))


def told(rates: dict[str, Any]) -> str:
    """The sentence that reports ``measured_rejection`` of the test classes."""
    return (
        f"Unknown images, on the test classes: {100 * rates['false_accept']:.1f} % of those of no class of a task are "
        f"taken for one of its classes, {100 * rates['false_reject']:.1f} % of the others are called unknown"
    )
