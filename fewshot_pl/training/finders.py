"""Callbacks that look for a setting before a training's first step, where it is resumed."""

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import BatchSizeFinder, LearningRateFinder
from pytorch_lightning.utilities import rank_zero_info

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.checkpoints import opened_checkpoint
from fewshot_pl.data.datamodule import EpisodicDataModule


def without_finders(
    callbacks: Sequence[Callback], path: Path, model: FewShotAlgorithm, data: EpisodicDataModule
) -> list[Callback]:
    """The callbacks of a resumed training, without those that look for a setting.

    They try steps and then put back the state of before, for which Lightning takes that of a training's start. What
    they found is given to the algorithm and the benchmark instead.

    Args:
        callbacks: the callbacks that the flags name.
        path: the checkpoint to resume from.
        model: the algorithm.
        data: the benchmark.
    """
    finders = [one for one in callbacks if isinstance(one, LearningRateFinder | BatchSizeFinder)]
    held = opened_checkpoint(path) if finders else {}
    for finder in finders:
        name = _setting(finder)
        for part, key in ((model, "hyper_parameters"), (data, "datamodule_hyper_parameters")):
            if name in part.hparams and name in held.get(key, {}):
                part.hparams[name] = held[key][name]
                if part is data:  # the optimizer's state has the rate, and is compared with the flags
                    setattr(part, name, held[key][name])
        rank_zero_info(f"{type(finder).__name__} is left out: training goes on with the {name} that {path} holds")
    return [one for one in callbacks if one not in finders]


def _setting(finder: LearningRateFinder | BatchSizeFinder) -> str:
    """The name of the setting that a callback looks for."""
    if isinstance(finder, BatchSizeFinder):
        return finder._batch_arg_name
    return finder._attr_name or "learning_rate"
