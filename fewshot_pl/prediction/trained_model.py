"""TrainedModel: what a checkpoint holds, ready to adapt to the classes of a user's own images."""

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.algorithms.base import QueryPredictor
from fewshot_pl.checkpoints import algorithm_of, opened_checkpoint
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_tree import FolderTree, ImageFile
from fewshot_pl.data.pixels import normalised
from fewshot_pl.errors import InputError
from fewshot_pl.prediction.rejection import Rejection, rejections_in
from fewshot_pl.trained_data import trained_benchmarks

OwnImage = str | PathLike[str] | Image.Image | NDArray[np.uint8]  # a file, an image, or pixels [H, W] or [H, W, 3]

_AT_LEAST = 256  # pixels of a side, to look at
_MOST_CHANNELS = 4  # of an array's image; no image is that narrow
_TURNS: WeakKeyDictionary[FewShotAlgorithm, RLock] = WeakKeyDictionary()  # beside the algorithms, which are pickled


class TrainedModel(NamedTuple):
    """An algorithm and how its images are prepared.

    Make it by hand where no checkpoint can: for user-defined classes with arguments that a checkpoint does not hold.

    Attributes:
        algorithm: the learner; from ``trained_model``, in evaluation mode and on its device.
        data: the benchmark it was trained on; its images are not read.
        rejections: when to call an image unknown, for some numbers of shots; empty if it was not calibrated.
    """

    algorithm: FewShotAlgorithm
    data: ImageDataModule
    rejections: Sequence[Rejection] = ()

    @property
    def is_grey(self) -> bool:
        """Whether the images have no colour."""
        return self.data.image_shape[0] == 1

    @property
    def is_transductive(self) -> bool:
        """Whether images that pass together influence each other."""
        return is_transductive(self.algorithm)

    def pixels(self, images: Iterable[OwnImage]) -> Tensor:
        """Images as the network sees them, [n, C, H, W].

        Raises:
            InputError: an image does not decode, has no pixels or is not an image, or a single one is given in place
                of several.
        """
        if _is_one_image(images):
            raise InputError("this is one image, and several are asked for: give a list of images, as [image]")
        return self.network_input([self.data.own_image(self.opened(image)) for image in images])

    def opened(self, image: OwnImage) -> Image.Image:
        """A user's image, decoded at a reduced size where it is a large JPEG file; raises as ``pixels``."""
        opened = _opened(image, at_least=max(2 * self.data.image_shape[1], _AT_LEAST))
        if 0 in opened.size:
            name = f"image {image}" if isinstance(image, str | PathLike) else "an image"
            raise InputError(f"{name} has {opened.width}x{opened.height} pixels, which show nothing: leave it out")
        return opened

    def network_input(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """The network's input [n, C, H, W] for images as ``data.own_image`` gives them, uint8 [C, H, W] each."""
        packed = np.stack(images) if images else np.empty((0, *self.data.image_shape), dtype=np.uint8)
        return normalised(torch.from_numpy(packed), self.data.mean, self.data.std)

    @torch.no_grad()
    def adapted(
        self, support_x: Tensor, support_y: Tensor, num_classes: int, per_query: bool = False
    ) -> QueryPredictor:
        """The model adapted to a support [n, C, H, W] with labels [n]: images [m, C, H, W] to logits [m, num_classes].

        With norm ``transductive``, the support passes with each batch of queries, so that even a single query has
        batch statistics; ``per_query`` passes each query with the support alone.

        Raises:
            InputError: the algorithm cannot tell that many classes apart.
        """
        check_classes(self.algorithm, num_classes)
        support_x, support_y = self._placed(support_x), support_y.to(self.algorithm.device)
        num_before = num_passed_before(self.algorithm, len(support_x))
        with _turn(self.algorithm):
            self.algorithm.eval()
            # Outputs of a head that no class needs stay unused.
            logits_of = self.algorithm.predictor(support_x, support_y, self.algorithm.num_ways or num_classes)

        @torch.no_grad()
        def answers(images: Tensor) -> Tensor:
            queries = self._placed(images)
            groups = torch.split(queries, 1) if per_query and num_before else (queries,)
            batches = (torch.cat([support_x[:num_before], group]) for group in groups)
            with _turn(self.algorithm):
                self.algorithm.eval()  # its owner may have trained it since
                return torch.cat([logits_of(batch)[num_before:, :num_classes] for batch in batches])

        return answers

    def _placed(self, images: Tensor) -> Tensor:
        """Images on the algorithm's device and in its precision."""
        return images.to(self.algorithm.device).to(self.algorithm.dtype)

    def __sklearn_clone__(self) -> "TrainedModel":
        return self  # predictors share it as they would share a file


def trained_model(checkpoint: str | PathLike[str] | TrainedModel, device: str = "auto") -> TrainedModel:
    """The model in a checkpoint that ``train.py`` wrote, or a given one, in evaluation mode and on a device.

    Args:
        checkpoint: the file, or the model.
        device: where to compute, as torch names it; ``auto`` is a GPU where there is one.

    Raises:
        InputError: the file is missing, damaged or not such a checkpoint, or there is no such device.
    """
    if not isinstance(checkpoint, str | PathLike | TrainedModel):
        raise InputError(
            f"a {type(checkpoint).__name__} does not say how images are prepared: give the file that train.py wrote, "
            "or TrainedModel(algorithm, data)"
        )
    if isinstance(checkpoint, TrainedModel):
        with _turn(checkpoint.algorithm):
            return checkpoint._replace(algorithm=checkpoint.algorithm.eval().to(_chosen_device(device)))
    path = Path(checkpoint)
    contents = opened_checkpoint(path)
    data = trained_benchmarks(contents, path)[0]
    return TrainedModel(algorithm_of(contents).to(_chosen_device(device)), data, rejections_in(contents))


def _turn(algorithm: FewShotAlgorithm) -> RLock:
    """The lock for using an algorithm, as inner steps put a task's weights into the network that all tasks share."""
    return _TURNS.setdefault(algorithm, RLock())


def is_transductive(algorithm: FewShotAlgorithm) -> bool:
    """Whether queries that pass together influence each other; with ``per_query``, Reptile passes each by itself."""
    return algorithm.norm_mode == "transductive"


def num_passed_before(algorithm: FewShotAlgorithm, num_support: int) -> int:
    """The number of support images before each batch of queries, so that even a single query has batch statistics."""
    return num_support if is_transductive(algorithm) else 0


def check_classes(algorithm: FewShotAlgorithm, num_classes: int) -> None:
    """Raise InputError if an algorithm cannot tell ``num_classes`` classes apart."""
    if num_classes < 2:
        raise InputError("there is only one class, or none: give images of at least two classes")
    if algorithm.num_ways is not None and num_classes > algorithm.num_ways:
        raise InputError(
            f"this {type(algorithm).__name__} has a head of {algorithm.num_ways} outputs and you gave {num_classes} "
            f"classes: give at most {algorithm.num_ways}, train it with --data.num_ways {num_classes}, or take a "
            "checkpoint of ProtoNet, which takes any number"
        )


def _is_one_image(images: Any) -> bool:
    """Whether this is a single image; an array is one if it is [H, W] or [H, W, C], not [n, H, W]."""
    if isinstance(images, str | PathLike | Image.Image):
        return True
    shape: tuple[int, ...] = getattr(images, "shape", ())
    return len(shape) == 2 or (len(shape) == 3 and shape[2] <= _MOST_CHANNELS)


def _opened(image: OwnImage, at_least: int) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | PathLike):
        path = Path(image)
        return ImageFile(FolderTree(path.parent), path.name).decoded(at_least)
    array = np.asarray(image)
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise InputError(
            f"images are files, PIL images or uint8 arrays [H, W] or [H, W, 3], not {array.dtype} {list(array.shape)}"
        )
    return Image.fromarray(array)


def _chosen_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"there is no device {name} here: pass cpu, or auto") from error
