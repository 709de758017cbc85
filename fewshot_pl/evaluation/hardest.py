"""Which classes a model finds hardest."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot_pl.callbacks import image_sheet
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.evaluation.outcome import Outcome


class ClassAccuracy(NamedTuple):
    """How many queries of a class were told right, over all episodes with that class."""

    name: str
    num_right: int
    num_queries: int
    images: NDArray[np.float32]  # [h, w, 3] in 0..1, some of the class's images side by side

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_queries


def hardest_classes(outcome: Outcome, num_classes: int = 10, num_images: int = 5) -> list[ClassAccuracy]:
    """The classes with the lowest share of right queries, the lowest first.

    None where tasks have no stored classes, or differ in size.

    Args:
        outcome: with records.
        num_classes: how many.
        num_images: shown of each.
    """
    data, records = outcome.data, outcome.records
    if records is None or records.correct is None or not isinstance(data, ImageDataModule) or data.is_variable:
        return []
    split = outcome.result["split"]
    classes = data.fixed_classes(split)  # [E, N]
    num_right = records.correct.view(*classes.shape, -1).sum(-1)  # [E, N]; queries lie class after class
    right = torch.bincount(classes.flatten(), num_right.flatten().double())
    asked = torch.bincount(classes.flatten()) * data.size(split).num_queries
    seen = asked.nonzero().flatten()
    # Of equal shares the one that more queries speak for comes first.
    order = np.lexsort((-asked[seen], right[seen] / asked[seen]))[:num_classes]
    return [
        ClassAccuracy(
            _class_name(data, split, number),
            int(right[number]),
            int(asked[number]),
            _some_images(data, split, number, num_images),
        )
        for number in seen[torch.from_numpy(order)].tolist()
    ]


def _class_name(data: ImageDataModule, split: str, number: int) -> str:
    source, turns = divmod(number, data.num_rotations(split))
    return data.stores[split].class_names[source] + (f", turned by {90 * turns}°" if turns else "")


def _some_images(data: ImageDataModule, split: str, number: int, count: int) -> NDArray[np.float32]:
    source, turns = divmod(number, data.num_rotations(split))
    images = data.stores[split].class_images(source)[:count]
    return image_sheet(torch.from_numpy(np.rot90(images, turns, axes=(2, 3)).copy()))
