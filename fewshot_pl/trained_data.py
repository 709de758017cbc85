"""The benchmark that the algorithm in a checkpoint was trained on."""

from pathlib import Path
from typing import Any

from fewshot_pl import benchmarks
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.errors import InputError


def trained_benchmarks(contents: dict[str, Any], path: str | Path) -> list[ImageDataModule]:
    """The benchmark that the algorithm in a checkpoint was trained on, or all of several, without the images.

    Args:
        contents: the opened checkpoint.
        path: its path, for messages.

    Raises:
        InputError: it is not known, or has no images.
    """
    name, arguments = contents.get("data"), contents.get("datamodule_hyper_parameters")
    if name not in benchmarks.__all__ or not isinstance(arguments, dict):
        raise InputError(
            f"{path} was not trained on a benchmark of fewshot_pl, so nobody knows how its images are made: take one "
            "that train.py wrote on such a benchmark, or in Python FewShotPredictor(TrainedModel(algorithm, data))"
        )
    try:
        data = getattr(benchmarks, str(name))(**arguments)
    except (TypeError, KeyError) as error:  # arguments that another version had
        raise InputError(
            f"{path} was trained on {name} with arguments that this version does not have ({error}): use the "
            "version of fewshot_pl that wrote it, or train anew"
        ) from error
    sources = data.sources if isinstance(data, benchmarks.MultiSource) else [data]
    if not all(isinstance(source, ImageDataModule) for source in sources):
        raise InputError(f"{path} was trained on {name}, which has no images: take a checkpoint trained on images")
    return sources
