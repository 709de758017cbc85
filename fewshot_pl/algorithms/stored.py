"""Stored: what a checkpoint says of an algorithm, and loading it by its class."""

from typing import Any, TypeVar

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.model_helpers import _restricted_classmethod

from fewshot_pl.errors import InputError
from fewshot_pl.registries import stored_name

_Own = TypeVar("_Own", bound="Stored")


class Stored(LightningModule):
    """Names the class and the data module in checkpoints, which need no file that training read."""

    @_restricted_classmethod  # as Lightning's own is: not to be called on an instance
    def load_from_checkpoint(cls: type[_Own], checkpoint_path: Any, *args: Any, **kwargs: Any) -> _Own:  # noqa: N805
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except Exception as error:  # foreign arguments or weights may raise anything
            stored = _stored_class(checkpoint_path)
            name = stored.rpartition(".")[2]
            if name in {"", *(base.__name__ for base in cls.__mro__)}:
                raise
            cure = f"{name}.load_from_checkpoint(path)" if name != stored else "fewshot_pl.load_algorithm(path)"
            raise InputError(
                f"{checkpoint_path} holds a {stored} and not a {cls.__name__}: load it by {cure}"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["algorithm"] = stored_name(type(self))
        datamodule = getattr(self.trainer, "datamodule", None) if self._trainer is not None else None
        checkpoint["data"] = stored_name(type(datamodule)) if datamodule is not None else None
        for file in {"backbone_weights", "init_from"} & checkpoint.get("hyper_parameters", {}).keys():
            checkpoint["hyper_parameters"][file] = None  # its content is in the checkpoint; the file may go


def _stored_class(path: Any) -> str:
    """The name of the algorithm's class in a checkpoint; empty if it does not say, or is no such file."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # on broken bytes torch may raise anything
        return ""
    name = checkpoint.get("algorithm") if isinstance(checkpoint, dict) else None
    return name if isinstance(name, str) else ""
