"""The rounds of MetaGAN's game: which tasks are played together, and their results."""

from typing import NamedTuple

from torch import Tensor

from fewshot_pl.episode import Episode, rows


class Part(NamedTuple):
    """Tasks that all have labels, or all have none."""

    tasks: Episode
    noise: Tensor  # [T, N*K + N*Q, Z]
    has_labels: bool
    share: float  # of the batch's tasks


def by_labels(batch: Episode, noise: Tensor) -> list[Part]:
    """The tasks of a batch in up to two parts: first those with labels, then those without."""
    parts = []
    for has_labels in (True, False):
        some = [task for task, is_labelled in enumerate(batch.is_labelled) if is_labelled == has_labels]
        if len(some) == batch.num_tasks:
            return [Part(batch, noise, has_labels, 1.0)]
        if some:
            parts.append(Part(batch.tasks(some), rows(noise, some), has_labels, len(some) / batch.num_tasks))
    return parts


class QuerySet(NamedTuple):
    """The images on which one task is played."""

    x: Tensor  # [N*Q, C, H, W]
    y: Tensor | None  # [N*Q]; None: the task has no labels
    unlabelled: Tensor | None  # [U, C, H, W]; None: the queries take their place
    fakes: Tensor  # [N*Q, C, H, W], as a function of the generator


class Round(NamedTuple):
    """The results of a task, or with a leading T of several; the loss is then their mean [] if taken ``loss_first``."""

    loss: Tensor  # []
    discriminator_loss: Tensor  # []
    generator_loss: Tensor  # []
    real_loss: Tensor  # []
    fake_loss: Tensor  # []
    supervised_loss: Tensor  # []; 0 without labels
    on_queries: Tensor  # [N*Q, N], D's logits


def mean_over_tasks(name: str, parts: list[Part], rounds: list[Round]) -> Tensor:
    """The mean [] of a figure over the tasks of all rounds."""
    means: list[Tensor] = [
        part.share * getattr(played, name).mean() for part, played in zip(parts, rounds, strict=True)
    ]
    return sum(means[1:], means[0])
