"""Which classes a model finds hardest."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.benchmarks import MultiSource
from fewshot_pl.callbacks import image_sheet
from fewshot_pl.data.datamodule import Split
from fewshot_pl.data.stored_datamodule import StoredDataModule
from fewshot_pl.evaluation.outcome import Outcome

_Stored = StoredDataModule | MultiSource  # data modules that know the class of each image


class ClassAccuracy(NamedTuple):
    """How many queries of a class were classified correctly, over all episodes with that class."""

    name: str
    num_right: int
    num_queries: int
    images: NDArray[np.float32]  # [h, w, 3] in 0..1, some of the class's images side by side

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_queries


def hardest_classes(outcome: Outcome, num_classes: int = 10, num_images: int = 5) -> list[ClassAccuracy]:
    """The classes with the lowest accuracy, lowest first; empty where tasks have no stored classes.

    Args:
        outcome: the outcome, with records.
        num_classes: the number of classes, at most.
        num_images: the number of images shown of each.
    """
    data, records = outcome.data, outcome.records
    if records is None or records.correct is None or not isinstance(data, _Stored):
        return []
    split = outcome.result["split"]
    names = data.class_names(split)
    right, asked = _counts(data, split, records.correct, len(names))
    seen = asked.nonzero().flatten()
    # Of classes with equal accuracy, the one with more queries comes first.
    order = np.lexsort((-asked[seen], right[seen] / asked[seen]))[:num_classes]
    return [
        ClassAccuracy(
            names[number],
            int(right[number]),
            int(asked[number]),
            image_sheet(data.class_examples(split, torch.tensor([number]), num_images)),
        )
        for number in seen[torch.from_numpy(order)].tolist()
    ]


def _counts(data: _Stored, split: Split, correct: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """The numbers of correct and of all queries of each class, [C] each, by whether queries [E, N*Q] were correct."""
    right, asked = torch.zeros(2, num_classes, dtype=torch.float64)
    for number, of_episode in enumerate(correct):
        classes = data.fixed_classes(split, number, 1)[0]  # [N], and queries lie class after class
        queries = of_episode[~of_episode.isnan()].double().view(len(classes), -1)  # [N, Q]
        right.index_add_(0, classes, queries.sum(1))
        asked.index_add_(0, classes, torch.ones_like(queries).sum(1))
    return right, asked
