"""FewShotPredictor: a checkpoint as a classifier of a user's own images, by scikit-learn's conventions."""

import math
from collections.abc import Iterable
from os import PathLike
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewshot_pl.algorithms.base import QueryPredictor
from fewshot_pl.errors import InputError
from fewshot_pl.prediction.calibration import FALSE_REJECT
from fewshot_pl.prediction.rejection import Rejection, nearest_rejection
from fewshot_pl.prediction.trained_model import OwnImage, TrainedModel, trained_model

_LABELS = "labels are None, nan, or of kinds that have no common order: give all images a string, or all a number"


class FewShotPredictor(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A trained few-shot learner of any algorithm, as a classifier of the classes of a few labelled images.

    ``fit`` adapts once; the methods that predict then take any number of images, in batches. An image is a file, a PIL
    image or a uint8 array [H, W] or [H, W, 3], of any size: it is turned upright and brought to the square that the
    checkpoint was trained on, as its training images were. Several images are a list or any other iterable, such as an
    array [n, H, W] or [n, H, W, 3]; a single image raises InputError.

    Args:
        checkpoint: a file that ``train.py`` wrote, or a TrainedModel. Classes of your own have to be imported or
            defined before, as a file imports no code.
        batch_size: images predicted at once.
        false_reject: the share of images of the known classes, 0 to 1, that may be called unknown.
        per_query: with norm ``transductive``, where images predicted together influence each other: pass each image
            with the support alone, as Reptile's authors do without transduction; slower. ``fit`` decides it.
        device: where to compute, as torch names it; ``auto`` is a GPU where there is one.

    Attributes:
        classes_: the labels [N], sorted.
        rejection_: when an image is called unknown; None where the checkpoint has no calibration.
    """

    classes_: NDArray[Any]
    rejection_: Rejection | None

    def __init__(
        self,
        checkpoint: str | PathLike[str] | TrainedModel,
        batch_size: int = 256,
        false_reject: float = FALSE_REJECT,
        per_query: bool = False,
        device: str = "auto",
    ) -> None:
        self.checkpoint = checkpoint
        self.batch_size = batch_size
        self.false_reject = false_reject
        self.per_query = per_query
        self.device = device

    @classmethod
    def from_checkpoint(cls, checkpoint: str | PathLike[str] | TrainedModel, **settings: Any) -> "FewShotPredictor":
        """The predictor of a checkpoint; ``settings`` are the other arguments of the class."""
        return cls(checkpoint, **settings)

    def fit(self, images: Iterable[OwnImage], labels: ArrayLike | Iterable[Any]) -> "FewShotPredictor":
        """Adapt to the classes of images [n] with labels [n]; classes may have different numbers of images.

        Raises:
            InputError: the checkpoint cannot be used, an image does not decode, labels are not all strings or all
                numbers, or there are fewer than two classes, or more than the algorithm's head has outputs.
        """
        _check_settings(self.batch_size, self.false_reject)
        names, numbers = _numbered(labels)
        model = trained_model(self.checkpoint, self.device)
        support_x = model.pixels(images)
        if len(support_x) != len(numbers):
            raise InputError(f"there are {len(support_x)} images and {len(numbers)} labels: give each image one label")
        self._model, self._support = model, (support_x, torch.from_numpy(numbers))
        self._per_query = self.per_query  # which may be set to another value before the model is adapted again
        self._logits_of: QueryPredictor | None = model.adapted(*self._support, len(names), self._per_query)
        self.classes_ = names
        self.rejection_ = nearest_rejection(model.rejections, len(numbers) / len(names))
        return self

    def predict(self, images: Iterable[OwnImage]) -> NDArray[Any]:
        """The most probable class of each image [n]."""
        best = self._logits(images).argmax(-1)
        return np.asarray(self.classes_[best])

    def predict_proba(self, images: Iterable[OwnImage]) -> NDArray[np.float64]:
        """The probabilities [n, N] of the classes, in the order of ``classes_``, of each image."""
        return np.exp(self.predict_log_proba(images))

    def predict_log_proba(self, images: Iterable[OwnImage]) -> NDArray[np.float64]:
        """The natural logarithms [n, N] of these probabilities."""
        return self.log_probabilities(self._logits(images))

    def decision_function(self, images: Iterable[OwnImage]) -> NDArray[np.float64]:
        """The algorithm's logits [n, N]; of two classes, how far the second's is above the first's [n].

        The latter is scikit-learn's convention, which its scorers and calibration rely on; ``logits`` gives both.
        """
        logits = self._logits(images)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def _logits(self, images: Iterable[OwnImage]) -> NDArray[np.float64]:
        check_is_fitted(self)
        _check_settings(self.batch_size, self.false_reject)  # they may have been set since
        pixels = self._model.pixels(images)
        return np.concatenate([self.logits(batch) for batch in torch.split(pixels, self.batch_size)])

    def is_unknown(self, images: Iterable[OwnImage]) -> NDArray[np.bool_]:
        """Whether each image [n] looks like none of the classes.

        Raises:
            InputError: the checkpoint has no calibration.
        """
        check_is_fitted(self)
        if self.rejection_ is None:
            raise InputError(
                f"{self._name} has no threshold for unknown images: train it with more validation classes than "
                "ways, or resume its training with train.py --ckpt_path, which calibrates one at its end"
            )
        logits = self._logits(images)
        return np.asarray(self.rejected(logits, self.log_probabilities(logits)), dtype=np.bool_)

    @property
    def _name(self) -> str:
        return "this model" if isinstance(self.checkpoint, TrainedModel) else str(self.checkpoint)

    # On pixels, for a caller that reads images itself ----------------------------------------------------

    @property
    def model(self) -> TrainedModel:
        """What the checkpoint holds."""
        check_is_fitted(self)
        return self._model

    def logits(self, pixels: Tensor) -> NDArray[np.float64]:
        """The algorithm's logits [n, N] of one batch of images [n, C, H, W], as ``model.pixels`` gives them."""
        if self._logits_of is None:  # after unpickling
            self._logits_of = self._model.adapted(*self._support, len(self.classes_), self._per_query)
        if not len(pixels):
            return np.empty((0, len(self.classes_)))
        return self._logits_of(pixels).double().cpu().numpy()

    def log_probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """The log-probabilities [n, N] of logits [n, N]."""
        of_classes = self.model.algorithm.class_log_probabilities(torch.from_numpy(logits)[None])
        return np.asarray(of_classes[0].numpy())

    def rejected(self, logits: NDArray[np.float64], log_probabilities: NDArray[np.float64]) -> list[bool] | list[None]:
        """Whether each of n images is called unknown; None where the checkpoint has no calibration."""
        if self.rejection_ is None:
            return [None] * len(logits)
        rejected: list[bool] = self.rejection_.rejects(logits, log_probabilities, self.false_reject).tolist()
        return rejected

    # scikit-learn's hooks ----------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        # The adapted model is a function, which cannot be pickled: it is made again from the support.
        state: dict[str, Any] = dict(super().__getstate__())
        return {**state, "_logits_of": None} if "_logits_of" in state else state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.three_d_array = False, True
        tags.no_validation = True
        return tags


def _check_settings(batch_size: int, false_reject: float) -> None:
    """Raise InputError if a setting is out of its range."""
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    if not 0 <= false_reject <= 1:
        raise InputError(f"false_reject is a share of images, 0 to 1, not {false_reject}")


def _numbered(labels: Any) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The sorted classes [N] of labels [n], and the number of each label's class [n].

    Raises:
        InputError: there is not one label per image, or they cannot be sorted, or only as text.
    """
    try:
        listed = labels if isinstance(labels, str) or hasattr(labels, "shape") else list(labels)
        array = np.asarray(listed)
        names, numbers = np.unique(array, return_inverse=True)
    except (TypeError, ValueError) as error:  # numpy's, of None, of kinds without a common order, and of ragged lists
        raise InputError(_LABELS) from error
    if array.ndim != 1:
        raise InputError(f"labels have the shape {list(array.shape)}: give a list of one label per image, [n]")
    is_mixed = len({isinstance(label, str) for label in listed}) > 1  # numpy makes numbers among strings text
    if is_mixed or any(isinstance(name, float) and math.isnan(name) for name in names.tolist()):
        raise InputError(_LABELS)
    return names, numbers
