"""The observers of a training by name, as ``--pictures`` takes them."""

from collections.abc import Callable, Iterable
from typing import Literal

from pytorch_lightning import Callback

from fewshot_pl.callbacks.adaptation_curve import AdaptationCurve
from fewshot_pl.callbacks.calibration import CalibrationPicture
from fewshot_pl.callbacks.confusion import ConfusionPicture
from fewshot_pl.callbacks.embedding import EmbeddingProjector
from fewshot_pl.callbacks.episode_picture import EpisodePicture
from fewshot_pl.callbacks.generated_images import GeneratedImages
from fewshot_pl.callbacks.inner_lr import InnerLearningRates
from fewshot_pl.callbacks.regression_picture import RegressionPicture
from fewshot_pl.errors import InputError

PictureName = Literal[
    "episode",
    "regression",
    "generated",
    "adaptation",
    "confusion",
    "calibration",
    "embedding",
    "inner_lr",
    "all",
    "none",
]
_OBSERVERS: dict[str, Callable[[], Callback]] = {
    "episode": EpisodePicture,
    "regression": RegressionPicture,
    "generated": GeneratedImages,
    "adaptation": AdaptationCurve,
    "confusion": ConfusionPicture,
    "calibration": CalibrationPicture,
    "embedding": EmbeddingProjector,
    "inner_lr": InnerLearningRates,
}
DEFAULT_PICTURES: list[PictureName] = ["episode", "regression", "generated"]


def pictures(names: Iterable[PictureName] = DEFAULT_PICTURES) -> list[Callback]:
    """The observers with these names, each of which shows what applies to a training; ``all`` of them, or ``none``.

    Raises:
        InputError: ``all`` or ``none`` is not the only name.
    """
    chosen = list(dict.fromkeys(names))
    if len(chosen) > 1 and (alone := {"all", "none"} & set(chosen)):
        raise InputError(f"--pictures {min(alone)} takes no other names: leave them out")
    if chosen == ["none"]:
        return []
    return [_OBSERVERS[name]() for name in (_OBSERVERS if chosen == ["all"] else chosen)]
