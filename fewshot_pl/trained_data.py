"""The benchmark that the algorithm in a checkpoint was trained on."""

from pathlib import Path
from typing import Any

from fewshot_pl import benchmarks
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.errors import InputError
from fewshot_pl.registries import imported_class


def trained_benchmarks(contents: dict[str, Any], path: str | Path) -> list[ImageDataModule]:
    """The benchmark that the algorithm in a checkpoint was trained on, or all of several, without the images.

    Args:
        contents: the opened checkpoint.
        path: its path, for messages.

    Raises:
        InputError: it is not known, has no images, or is user-defined and not imported.
    """
    name, arguments = contents.get("data"), contents.get("datamodule_hyper_parameters")
    benchmark = _benchmark(name)
    if benchmark is None and name is not None:
        raise InputError(
            f"{path} was trained on {name}, which is no benchmark of fewshot_pl, and a checkpoint imports no code: "
            f"if it is a class of yours, pass --data {name}, or import it first in Python"
        )
    if benchmark is None or not isinstance(arguments, dict):
        raise InputError(
            f"{path} does not say which benchmark it was trained on, so nobody knows how its images are made: take one "
            "that train.py wrote, or in Python FewShotPredictor(TrainedModel(algorithm, data))"
        )
    try:
        data = benchmark(**arguments)
    except (TypeError, KeyError) as error:  # arguments that another version had, or that no checkpoint holds
        raise InputError(
            f"{path} was trained on {name} with arguments that this version does not have, or that a checkpoint does "
            f"not hold ({error}): use the version that wrote it, train anew, or in Python pass the benchmark itself, "
            "FewShotPredictor(TrainedModel(algorithm, data))"
        ) from error
    sources = data.sources if isinstance(data, benchmarks.MultiSource) else [data]
    if not all(isinstance(source, ImageDataModule) for source in sources):
        raise InputError(f"{path} was trained on {name}, which has no images: take a checkpoint trained on images")
    return sources


def _benchmark(name: Any) -> type[Any] | None:
    """The benchmark with this stored name; one of the user's own only if it is imported."""
    return getattr(benchmarks, name) if name in benchmarks.__all__ else imported_class(EpisodicDataModule, name)
