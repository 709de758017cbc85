"""Whether a checkpoint belongs to the training that is to resume from it."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.checkpoints import data_state, opened_checkpoint
from fewshot_pl.data.datamodule import EpisodicDataModule
from fewshot_pl.errors import InputError
from fewshot_pl.registries import stored_name
from fewshot_pl.resuming.changed_settings import changed_settings, written

_OF_DATA = {"num_ways", "image_shape", "pixel_range"}  # set by the benchmark, not by a flag of the algorithm
_WITHOUT_WEIGHTS = {*inspect.signature(FewShotAlgorithm).parameters, "init_from", "backbone_weights"}
_WAYS = {"num_ways", "train_num_ways"}
_OF_IMAGES = {"image_size", "channels", "sources"}


def check_same_training(path: Path, model: FewShotAlgorithm, data: EpisodicDataModule) -> None:
    """Raise InputError if a checkpoint has another algorithm, benchmark or classes, or weights of other shapes.

    All else may change when training resumes: epochs, shots, where the images are, the machine. Settings of the
    algorithm and the benchmark that do are named; BestCheckpoint names those that change what validation measures.

    Args:
        path: the checkpoint.
        model: the algorithm to resume.
        data: the benchmark to train it on.
    """
    held = opened_checkpoint(path)
    if (algorithm := held["algorithm"]) != stored_name(type(model)):
        raise InputError(f"{path} holds a {algorithm}: pass --model {algorithm} to resume it")
    if (trained_on := held.get("data")) not in (None, name := stored_name(type(data))):
        raise InputError(
            f"{path} was trained on {trained_on} and training goes on there alone: pass --data {trained_on} to resume "
            f"it, or leave out --ckpt_path to train on {name} from the start"
        )
    data.check_resumable(data_state(held))
    if _shapes(held["state_dict"]) != _shapes(model.state_dict()):
        flags = " ".join(_other_flags(held, model, data))
        cure = f"pass {flags}, as in its training," if flags else "use the version of fewshot_pl that wrote it"
        raise InputError(f"the weights in {path} do not fit this {algorithm}: {cure} to resume it")
    _, unmeasured, ineffective = changed_settings(held, model, data)
    if unmeasured:
        rank_zero_info(f"Training goes on with {', '.join(unmeasured)}")
    if ineffective:
        rank_zero_info(f"{', '.join(ineffective)}: without effect, as weights and optimizer go on from those in {path}")


def _shapes(weights: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in weights.items()}


def _other_flags(held: dict[str, Any], model: FewShotAlgorithm, data: EpisodicDataModule) -> Iterator[str]:
    """The flags, with their values in a checkpoint's training, that differ now and may shape the weights."""
    of_model, of_data = held["hyper_parameters"], held.get("datamodule_hyper_parameters", {})
    shaping = _OF_IMAGES | (_WAYS if "num_ways" in of_model else set())
    for key, now, before, names in (
        ("model", model.hparams, of_model, of_model.keys() - _OF_DATA - _WITHOUT_WEIGHTS),
        ("data", data.hparams, of_data, of_data.keys() & shaping),
    ):
        for name in sorted(names & now.keys()):
            if now[name] != (value := before[name]):
                yield f"--{key}.{name} {written(value)}"
