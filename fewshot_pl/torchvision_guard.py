"""Makes ``import torchvision`` work beside a CPU-only torch when its own build expects CUDA."""

import importlib
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

_MISSING_OPERATOR = "operator torchvision::nms does not exist"


def import_torchvision() -> None:
    """Import torchvision, even where its compiled operators do not match torch.

    torch, pytorch_lightning, timm and learn2learn all import torchvision. With mismatched builds the
    import fails while it registers shape functions for operators that do not exist; transforms and
    datasets need none of them, so the registration is skipped.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING_OPERATOR not in str(error):
            raise
        _import_without_operators()


def _import_without_operators() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]

    def register_nothing(*_: Any, **__: Any) -> Callable[[Any], Any]:
        return lambda function: function

    with mock.patch.object(torch.library, "register_fake", register_nothing):
        importlib.import_module("torchvision")
