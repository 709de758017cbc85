"""Settings of the data and the model, and images, that differ from those of the checkpoint a training resumes from."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pytorch_lightning import LightningDataModule, LightningModule

from fewshot_pl.checkpoints import data_state
from fewshot_pl.data.datamodule import VAL_IMAGES

# Of places, of speed, and of training steps: a validation of the same weights gives the same figures.
_UNMEASURED = {
    *("root", "cache_dir", "store", "num_workers", "tasks_per_batch", "batches_per_epoch", "augment"),
    *("train_num_ways", "train_num_shots", "train_num_queries", "unlabelled_tasks"),
    *("eval_tasks_per_batch", "num_test_episodes"),
    *("task_parallel", "task_chunk", "compile", "recompute_inner_steps", "first_order", "lr_halve_every"),
    *("num_inner_steps", "inner_batch_size", "sequential", "max_gradient_norm"),
    *("kl_weight", "num_training_samples", "real_weight", "fake_weight"),
}
_STARTS = {"learning_rate", "generator_learning_rate", "beta1", "beta2", "initial_gamma", "initial_deviation"}
_UNSAID = {"num_ways", "image_shape", "pixel_range", "init_from", "backbone_weights"}  # no flags, or in no checkpoint
_SIZES = {f"{part}num_{of}" for part in ("", "train_") for of in ("ways", "shots", "queries")}
_BOUNDS = {"min_ways", "max_ways", "max_queries", "max_support"}


class ChangedSettings(NamedTuple):
    """The flags of the settings that differ, with both values, such as ``--data.num_shots 1 instead of 5``.

    Attributes:
        measured: those that change what validation measures, and the validation images if they differ.
        unmeasured: those that do not.
        ineffective: flags, with the new value alone, of a start that the checkpoint has replaced.
    """

    measured: list[str]
    unmeasured: list[str]
    ineffective: list[str]


def changed_settings(checkpoint: dict[str, Any], model: LightningModule, data: Any) -> ChangedSettings:
    """The settings that differ between a checkpoint and the training that resumes from it.

    Settings that one of the two does not know are left out. Those of a user's own classes count as measured.

    Args:
        checkpoint: the contents of the checkpoint.
        model: the algorithm that is resumed.
        data: the benchmark that it is trained on, if any; before it is set up, it does not know its images.
    """
    changed = ChangedSettings([], [], [])
    of_model = {name: value for name, value in checkpoint.get("hyper_parameters", {}).items() if name not in _UNSAID}
    for key, now, before in (
        ("data", getattr(data, "hparams", {}), checkpoint.get("datamodule_hyper_parameters", {})),
        ("model", model.hparams, of_model),
    ):
        for name, new, old in _differences(_read(now), _read(before)):
            flag = f"--{key}.{name} {written(new)}"
            if name in _STARTS or (name == "lr_halve_every" and new and old):  # the schedule's state holds the latter
                changed.ineffective.append(flag)
            else:
                is_unmeasured = name in _UNMEASURED or _measured(new) == _measured(old)
                kind = changed.unmeasured if is_unmeasured else changed.measured
                kind.append(f"{flag} instead of {written(old)}")
    if _has_other_images(checkpoint, data):
        changed.measured.append("other validation images")
    return changed


def written(value: Any) -> str:
    """A setting's value as it is written on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _has_other_images(checkpoint: dict[str, Any], data: Any) -> bool:
    """Whether a checkpoint was validated on other images, which no flag says if a folder's content has changed."""
    now = data.state_dict().get(VAL_IMAGES) if isinstance(data, LightningDataModule) else None
    before = data_state(checkpoint).get(VAL_IMAGES)
    return None not in (now, before) and now != before  # older checkpoints do not know them


def _read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are read: only tasks of one size have the given sizes, and only the others have bounds."""
    unread = _SIZES if settings.get("sampling") == "variable" else _BOUNDS
    read = {name: value for name, value in settings.items() if name not in unread}
    if read.get("num_inner_steps_test", 0) is None:
        read["num_inner_steps_test"] = read["num_inner_steps"]
    plain: dict[str, Any] = json.loads(json.dumps(read, default=str))  # what is a list in a file may be a tuple here
    return plain


def _differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted(now.keys() & before.keys()):
        if now[name] != before[name]:
            yield name, now[name], before[name]


def _measured(value: Any) -> Any:
    """What validation measures by a value, which may hold the settings of several sources."""
    if isinstance(value, Mapping):
        return {name: _measured(part) for name, part in value.items() if name not in _UNMEASURED}
    return [*map(_measured, value)] if isinstance(value, list) else value
