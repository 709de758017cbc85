"""How a model's images are prepared when it is evaluated on another benchmark: as in its training."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from fewshot_pl.benchmarks import ImageFolder, MultiSource
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.errors import InputError
from fewshot_pl.flags import init_parameters
from fewshot_pl.registries import is_ours
from fewshot_pl.trained_data import trained_benchmarks


def known_benchmarks(checkpoint: dict[str, Any], path: str) -> list[ImageDataModule]:
    """As ``trained_benchmarks``, but empty where a model was trained on no images or on nothing of ours.

    A benchmark of the user's own may find its mean and deviation in the images, which nobody reads here.
    """
    try:
        found = trained_benchmarks(checkpoint, path)
    except InputError:
        return []
    return found if all(map(is_ours, map(type, found))) else []


def own_images_as(trained: ImageDataModule) -> dict[str, Any]:
    """The arguments of an ImageFolder that prepares images like the benchmark of a training."""
    accepted = init_parameters(ImageFolder)
    shared = {name: value for name, value in trained.hparams.items() if name in accepted}
    channels, size, _ = trained.image_shape
    kept = {"whole_images": trained.whole_images, "light_on_dark": trained.light_on_dark}
    return {**shared, "image_size": size, "channels": channels, **kept}


@contextmanager
def normalised_as(trained: Sequence[ImageDataModule], data: EpisodicDataModule) -> Iterator[None]:
    """Within it, a benchmark's images, or those of each of its sources, have the mean and deviation of a training.

    Those are what the model's weights expect: of the same benchmark in the training, else of its first. Images of
    another shape keep their own.
    """
    sources = data.sources if isinstance(data, MultiSource) else [data]
    own = {source: (source.mean, source.std) for source in sources if isinstance(source, ImageDataModule)}
    for source in own:
        # An ImageFolder of its own is made as the first, see ``own_images_as``.
        is_made_as_first = data is source and isinstance(data, ImageFolder)
        same = () if is_made_as_first else (one for one in trained if type(one) is type(source))
        expected = next(chain(same, trained), source)
        if expected.image_shape == source.image_shape:
            source.mean, source.std = expected.mean, expected.std
    try:
        yield
    finally:
        for source, (mean, std) in own.items():
            source.mean, source.std = mean, std
