"""The trained models that an evaluation measures, and what must hold before it starts."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning.utilities import rank_zero_warn

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.checkpoints import algorithm_of, data_state
from fewshot_pl.data.datamodule import EpisodicDataModule, Split
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.trained_classes import warn_of_trained_classes
from fewshot_pl.errors import InputError
from fewshot_pl.evaluation.preparation import known_benchmarks
from fewshot_pl.registries import stored_name

_STEPS, _PER_QUERY = "num_inner_steps_test", "per_query"


class Contestant(NamedTuple):
    """A trained model and its label."""

    label: str
    path: str
    model: FewShotAlgorithm
    trained_on: str | None  # name of the benchmark
    data_state: dict[str, Any]  # the benchmark's saved state in the checkpoint
    trained: Sequence[ImageDataModule]  # the benchmarks of images that it was trained on, where they are known


def contestants(
    checkpoints: Mapping[str, dict[str, Any]], num_inner_steps: int | None = None, per_query: bool | None = None
) -> list[Contestant]:
    """The models in checkpoints, with the given settings changed in those that have them.

    Args:
        checkpoints: opened checkpoints by path.
        num_inner_steps: at test, of models that take inner steps.
        per_query: whether each query gets a batch of its own, in models that have this setting.

    Raises:
        InputError: a setting is given that no model has.
    """
    given = {_STEPS: num_inner_steps, _PER_QUERY: per_query}
    asked = {name: value for name, value in given.items() if value is not None}
    for name in asked:
        if not any(name in checkpoint["hyper_parameters"] for checkpoint in checkpoints.values()):
            raise InputError(_refusal(name, [checkpoint["algorithm"] for checkpoint in checkpoints.values()]))
    labels = _labels(checkpoints)
    found = []
    for path, checkpoint in checkpoints.items():
        changed = {name: value for name, value in asked.items() if name in checkpoint["hyper_parameters"]}
        model = algorithm_of(checkpoint, **changed)
        trained = known_benchmarks(checkpoint, path)
        found.append(Contestant(labels[path], path, model, checkpoint.get("data"), data_state(checkpoint), trained))
    return found


def _refusal(name: str, algorithms: Sequence[str]) -> str:
    if name == _PER_QUERY:
        return "only Reptile passes each query in a batch of its own: leave out --per_query"
    names, adapts = " and ".join(dict.fromkeys(algorithms)), "adapts" if len(algorithms) == 1 else "adapt"
    return f"{names} {adapts} to a task without steps: leave out --num_inner_steps"


def check_fit(
    models: Sequence[Contestant], cells: Iterable[EpisodicDataModule], asks_for_ways: bool, stage: str
) -> None:
    """Raise InputError if a model cannot take the tasks of a cell, or the benchmark has too few images for them."""
    flag = "--ways" if asks_for_ways else "--data.num_ways"
    for data in cells:
        for contestant in models:
            _check_image_shape(contestant, data)
            name = f"the {type(contestant.model).__name__} in {contestant.path}"
            contestant.model.check_ways(data.eval_size.num_ways, name, flag)
        data.prepare_data()
        data.setup(stage)


def warn_of_unfair_classes(models: Iterable[Contestant], data: EpisodicDataModule, split: Split) -> None:
    """Warn of models that were, or may have been, trained on classes of the split that is to measure them."""
    name = stored_name(type(data))
    for contestant in models:
        warned = warn_of_trained_classes(data, split, contestant.data_state, contestant.path)
        is_old = not contestant.data_state and contestant.trained_on == name
        if not warned and is_old and data.divided_classes(split):
            rank_zero_warn(
                f"{contestant.path} does not say which classes it was trained on, as those of earlier versions: "
                f"{split} may hold some of them, unless the same classes were in it then"
            )


def _check_image_shape(contestant: Contestant, data: EpisodicDataModule) -> None:
    trained = tuple(contestant.model.hparams["image_shape"])
    if trained != tuple(data.image_shape):
        raise InputError(
            f"the checkpoint {contestant.path} was trained on images of {trained} (channels, height, width) and "
            f"{type(data).__name__} gives {tuple(data.image_shape)}: pass --data.image_size {trained[1]} where it has "
            "one, or train anew"
        )


def _labels(checkpoints: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Labels by path: the algorithm's name and, where several share it, the part in which their paths differ."""
    paths: dict[str, list[str]] = {}
    for path, checkpoint in checkpoints.items():
        paths.setdefault(checkpoint["algorithm"], []).append(path)
    return {
        path: f"{algorithm} {part}".strip()
        for algorithm, same in paths.items()
        for path, part in zip(same, _different_parts(same), strict=True)
    }


def _different_parts(paths: Sequence[str]) -> list[str]:
    """The paths without their common start and end; a single path becomes empty."""
    parts = [Path(path).parts for path in paths]
    start = _num_shared(parts)
    end = _num_shared([path[start:][::-1] for path in parts])
    return ["/".join(path[start : len(path) - end]) for path in parts]


def _num_shared(paths: Sequence[tuple[str, ...]]) -> int:
    """The number of leading parts that all paths share."""
    columns = enumerate(zip(*paths, strict=False))
    return next((number for number, column in columns if len(set(column)) > 1), min(map(len, paths)))
