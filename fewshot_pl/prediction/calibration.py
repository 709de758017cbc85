"""Calibration, on classes that training never saw, of when to say that an image belongs to no class of a task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.benchmarks import MultiSource
from fewshot_pl.checkpoints import amend_checkpoint
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.data.episode_dataset import EpisodeDataset, EpisodeRange
from fewshot_pl.data.episode_sampler import EpisodeSampler, EpisodeSize
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.mixture import drawn_sources, joined_batch
from fewshot_pl.episode import Episode
from fewshot_pl.prediction.rejection import (
    REJECTIONS_KEY,
    Rejection,
    Score,
    auroc,
    calibrated,
    nearest_rejection,
    scores,
)
from fewshot_pl.prediction.trained_model import num_passed_before

_MOST_EPISODES = 100  # of some 150 images each
_NUM_SHOTS = (1, 5)  # in addition to the evaluation's
FALSE_REJECT = 0.05  # unless a user says otherwise

Images = ImageDataModule | MultiSource
Scores = dict[Score, NDArray[np.float64]]


def calibrate(model: FewShotAlgorithm, data: EpisodicDataModule, checkpoint: Path) -> dict[str, float] | None:
    """Write to a checkpoint when to call an image unknown, calibrated on the validation classes.

    The tasks have ``data.eval_size.num_ways`` classes with equally many shots, even where ``data`` draws tasks that
    differ in size: a threshold depends on the shots, by which ``predict.py`` chooses it. With several sources, each
    task is from the one that validation draws for it.

    Returns:
        The rates on the test classes, see ``measured_rejection``; None where there are too few classes to leave some
        out of a task, or no images.
    """
    if not isinstance(data, ImageDataModule | MultiSource):
        return None
    model.eval()  # a Trainer leaves it in training mode
    rejections = calibrated_rejections(model, data, "val")
    if not rejections:
        return None
    amend_checkpoint(checkpoint, {REJECTIONS_KEY: [rejection._asdict() for rejection in rejections]})
    return measured_rejection(model, data, rejections, "test")


def calibrated_rejections(model: FewShotAlgorithm, data: Images, split: str) -> list[Rejection]:
    """A Rejection for each number of shots for which the split has enough images; empty if it has too few classes."""
    num_ways = data.eval_size.num_ways
    pairs = {shots: known_and_unknown(model, data, split, shots) for shots in {*_NUM_SHOTS, data.eval_size.num_shots}}
    return [calibrated(*pair, num_ways, num_shots) for num_shots, pair in sorted(pairs.items()) if pair is not None]


def measured_rejection(
    model: FewShotAlgorithm, data: Images, rejections: list[Rejection], split: str
) -> dict[str, float] | None:
    """The shares of known images rejected and of unknown ones accepted on a split's classes, AUROC and task size.

    None where there are too few classes, or no Rejection.
    """
    num_shots = data.eval_size.num_shots
    rejection, pair = nearest_rejection(rejections, num_shots), known_and_unknown(model, data, split, num_shots)
    if rejection is None or pair is None:
        return None
    known, unknown = (part[rejection.score] for part in pair)
    threshold = rejection.threshold(FALSE_REJECT)
    rates = {"false_reject": (known < threshold).mean(), "false_accept": (unknown >= threshold).mean()}
    size = {"num_ways": data.eval_size.num_ways, "num_shots": num_shots}
    return {**size, **{name: float(rate) for name, rate in rates.items()}, "auroc": auroc(known, unknown)}


def known_and_unknown(
    model: FewShotAlgorithm, data: Images, split: str, num_shots: int
) -> tuple[Scores, Scores] | None:
    """The scores of queries of a task's own classes, and of queries of up to as many others, over fixed episodes.

    All queries of a task pass together: where they influence each other, up to half of them are unknown.

    The other classes are from the task's source. A source without others, or with too few images per class, is
    skipped; None if all are.
    """
    pairs = []
    for source, numbers in _sources(data):
        size = _open_size(source, split, num_shots, data.eval_size)
        if size is not None and numbers:
            everything = _query_logits(model, source, split, size, numbers, data.eval_tasks_per_batch)
            num_known = data.eval_size.num_ways * size.num_queries
            pairs.append((_scores(model, everything[:, :num_known]), _scores(model, everything[:, num_known:])))
    if not pairs:
        return None
    known, unknown = (_together(parts) for parts in zip(*pairs, strict=True))
    return known, unknown


def _sources(data: Images) -> list[tuple[ImageDataModule, list[int]]]:
    """Each source with the numbers of the episodes that come from it, as in a validation."""
    numbers = np.arange(min(_MOST_EPISODES, data.num_episodes["val"]))
    if isinstance(data, ImageDataModule):
        return [(data, numbers.tolist())]
    drawn = drawn_sources(data.seed, EpisodeRange(0, 0, len(numbers)), data.shares)
    return [(source, numbers[drawn == place].tolist()) for place, source in enumerate(data.sources)]


def _open_size(source: ImageDataModule, split: str, num_shots: int, wanted: EpisodeSize) -> EpisodeSize | None:
    """The size of tasks with unknown classes after those with a support; None if classes or images are too few."""
    if split not in source.stores:  # a training without a test
        return None
    store, num_ways = source.stores[split], wanted.num_ways
    num_others = min(num_ways, store.num_classes * source.num_rotations(split) - num_ways)
    num_queries = min(wanted.num_queries, int(np.diff(store.class_starts).min()) - num_shots)
    enough = num_others >= 1 and num_queries >= 1
    return EpisodeSize(num_ways + num_others, num_shots, num_queries) if enough else None


def _query_logits(
    model: FewShotAlgorithm,
    source: ImageDataModule,
    split: str,
    size: EpisodeSize,
    numbers: list[int],
    tasks_per_batch: int,
) -> Tensor:
    """The logits [T, (N + M)*Q, N] of queries of N known and M unknown classes, in the episodes of these numbers."""
    num_ways = source.eval_size.num_ways
    sampler = EpisodeSampler(source.stores[split], size, source.seed, source.num_rotations(split))
    dataset = EpisodeDataset(split, sampler)
    logits = []
    for start in range(0, len(numbers), tasks_per_batch):
        tasks = [dataset[EpisodeRange(0, number, 1)] for number in numbers[start : start + tasks_per_batch]]
        drawn = source.episode(move_data_to_device(joined_batch(tasks), model.device))
        logits.append(_logits(model, drawn, num_ways, num_ways * size.num_shots))
    return torch.cat(logits)


@torch.no_grad()
def _logits(model: FewShotAlgorithm, drawn: Episode, num_ways: int, num_support: int) -> Tensor:
    """The logits [T, (N + M)*Q, N] of the queries of all classes, where the first N classes have a support.

    They are those of ``TrainedModel.adapted`` for all these queries in one batch.
    """
    support_x, query_x = (images.to(model.dtype) for images in (drawn.support_x[:, :num_support], drawn.query_x))
    support_y, num_before = drawn.support_y[:, :num_support], num_passed_before(model, num_support)
    passed_x = torch.cat([support_x[:, :num_before], query_x], 1)
    passed_y = torch.cat([support_y[:, :num_before], drawn.query_y], 1)
    logits: Tensor = model(Episode(support_x, support_y, passed_x, passed_y, known_ways=num_ways))
    return logits[:, num_before:]


def _scores(model: FewShotAlgorithm, logits: Tensor) -> Scores:
    log_probabilities = model.class_log_probabilities(logits.double())
    return scores(*(values.flatten(0, 1).cpu().numpy() for values in (logits.double(), log_probabilities)))


def _together(parts: Sequence[Scores]) -> Scores:
    return {score: np.concatenate([part[score] for part in parts]) for score in parts[0]}


def rejection_sentence(rates: dict[str, Any]) -> str:
    """The sentence that reports ``measured_rejection`` of the test classes."""
    return (
        f"Unknown images, in {rates['num_ways']}-way {rates['num_shots']}-shot tasks of test classes: "
        f"{100 * rates['false_accept']:.1f} % of the images of other classes are taken for one of the task's, "
        f"{100 * rates['false_reject']:.1f} % of those of the task's classes are called unknown"
    )
