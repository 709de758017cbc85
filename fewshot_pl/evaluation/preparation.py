"""How a model's images are prepared when it is evaluated on another benchmark: as in its training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fewshot_pl.benchmarks import ImageFolder
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.errors import InputError
from fewshot_pl.flags import init_parameters
from fewshot_pl.trained_data import trained_benchmarks


def known_benchmarks(checkpoint: dict[str, Any], path: str) -> list[ImageDataModule]:
    """As ``trained_benchmarks``, but empty where a model was trained on no images or on nothing known."""
    try:
        return trained_benchmarks(checkpoint, path)
    except InputError:
        return []


def own_images_as(trained: ImageDataModule) -> dict[str, Any]:
    """The arguments of an ImageFolder that prepares images like the benchmark of a training."""
    accepted = init_parameters(ImageFolder)
    shared = {name: value for name, value in trained.hparams.items() if name in accepted}
    channels, size, _ = trained.image_shape
    kept = {"whole_images": trained.whole_images, "light_on_dark": trained.light_on_dark}
    return {**shared, "image_size": size, "channels": channels, **kept}


@contextmanager
def normalised_as(trained: Sequence[ImageDataModule], data: EpisodicDataModule) -> Iterator[None]:
    """Within it, a benchmark's images have the mean and deviation of a training on others, whose weights expect these.

    A benchmark that was one of the training's, or is to be normalised otherwise by a flag, is left as it is.
    """
    if not (isinstance(data, ImageDataModule) and _is_to_follow(trained, data)):
        yield
        return
    own = data.mean, data.std
    data.mean, data.std = trained[0].mean, trained[0].std
    try:
        yield
    finally:
        data.mean, data.std = own


def _is_to_follow(trained: Sequence[ImageDataModule], data: ImageDataModule) -> bool:
    if not trained or type(data) in map(type, trained) or trained[0].image_shape != data.image_shape:
        return False
    wanted = trained[0].hparams.get("normalise", True)
    return bool(data.hparams.get("normalise", wanted) == wanted)
