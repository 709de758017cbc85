"""What Lightning's own callbacks need of an algorithm: those that freeze weights, and those that average them."""

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import BaseFinetuning, StochasticWeightAveraging
from pytorch_lightning.utilities import rank_zero_warn
from torch import nn

from fewshot_pl.backbones.normalization import running_statistics
from fewshot_pl.errors import InputError


def leave_out_frozen(trainer: Trainer) -> None:
    """Take frozen weights out of the optimizers if a callback will unfreeze them and add them at its own rate.

    Without such a callback they stay, so that weights that a user unfreezes are trained. In a training that is resumed,
    the callback has frozen those anew that it had added before: they are unfrozen.
    """
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if not isinstance(callback, BaseFinetuning):
            continue
        if trainer.ckpt_path and callback._internal_optimizer_metadata:
            for parameter in (parameter for group in groups for parameter in group["params"]):
                parameter.requires_grad_(True)
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if parameter.requires_grad]


def check_trained(model: nn.Module) -> None:
    """Raise InputError if all weights of a model are frozen."""
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            f"all weights of {type(model).__name__} are frozen, so nothing is trained: leave out what froze them, "
            "such as BackboneFinetuning, which is for models with weights beside their backbone's"
        )


def warn_of_stale_statistics(model: nn.Module, trainer: Trainer) -> None:
    """Warn if weights are to be averaged without the running statistics that belong to them."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if any(isinstance(callback, StochasticWeightAveraging) for callback in callbacks) and running_statistics(model):
        rank_zero_warn(
            "StochasticWeightAveraging averages weights alone, and norm running keeps the statistics of the last "
            "weights: use EMAWeightAveraging or WeightAveraging, which average both, or another norm"
        )
