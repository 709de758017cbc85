"""A stand-in for a GPU: torch's "meta" device, whose tensors have a place and a shape and no values.

To read a value, as ``item``, ``if`` and a boolean index do, makes a GPU wait, and here raises. ``Apart`` sees the rest:
tensors of two places in one operation, and copies for which a GPU would wait. Nobody sees what torch makes of a list
of numbers and sends by itself: ``torch.tensor([1.0], device=...)``, or a list as an index.
"""

from types import SimpleNamespace

import pytorch_lightning.loops
import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from quiet_trainer import quiet_trainer
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")


class Apart(TorchDispatchMode):
    """Raises where an operation takes tensors of both places, or while ``forbids_waiting`` sends one and waits."""

    forbids_waiting = False

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = list(_tensors((*args, *kwargs.values())))
        places = {tensor.device for tensor in given if tensor.ndim or tensor.device == DEVICE}  # others are numbers
        is_copy = operation in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        assert is_copy or len(places) < 2, f"{operation} of tensors of {places}"
        result = operation(*args, **kwargs)
        if is_copy and self.forbids_waiting and result.device == DEVICE and given[-1].device != DEVICE:
            waits = not kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            assert not waits, f"{operation} of {tuple(given[-1].shape)} waits"
        return result


def _tensors(values):
    """Those among an operation's arguments, and in their lists; torch's own search of any tree takes longer."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


class Count(TorchDispatchMode):
    """Counts the operations that a GPU would be asked for; views ask for none."""

    def __init__(self):
        super().__init__()
        self.num_operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        returned = operation._schema.returns
        self.num_operations += not any(value.alias_info and not value.alias_info.is_write for value in returned)
        return operation(*args, **(kwargs or {}))


class _Accelerator(CPUAccelerator):
    """Takes the device as it is."""

    def setup_device(self, device):
        pass


class _Strategy(SingleDeviceStrategy):
    """Of the one device; at the end nothing comes back from it."""

    def __init__(self):
        super().__init__(DEVICE, accelerator=_Accelerator())

    def teardown(self):
        pass


class Autocast(torch.autocast):
    """Also for a device that knows no half precision."""

    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)


class _DoneError(Exception):
    pass


class _Watch(Callback):
    """Forbids waiting from the second training step on, and ends what runs before anything is read from the device."""

    def __init__(self, apart, num_batches):
        self.apart, self.num_batches = apart, num_batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.apart.forbids_waiting = True
        self._count(batch_idx)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._count(batch_idx)

    def _count(self, batch_idx):
        if batch_idx + 1 == self.num_batches:
            raise _DoneError


def run(function, model, data, num_batches, monkeypatch, callbacks=(), **arguments):
    """Trainer.fit or Trainer.test, as ``function`` names it, of so many batches on the device without values."""
    monkeypatch.setattr(torch, "autocast", Autocast)
    monkeypatch.setattr(torch, "meta", SimpleNamespace(manual_seed=lambda seed: None), raising=False)
    for loop in (pytorch_lightning.loops.fit_loop, pytorch_lightning.loops.evaluation_loop):
        monkeypatch.setattr(loop, "has_len_all_ranks", lambda *_: True)  # sums lengths on the device
    monkeypatch.setattr(Trainer, "_teardown", lambda trainer: None)  # brings figures back from the device
    apart = Apart()
    place = {"accelerator": "auto", "strategy": _Strategy()}
    defaults = {"enable_progress_bar": True, "max_epochs": 1, "num_sanity_val_steps": 0, **place}
    trainer = quiet_trainer(*callbacks, _Watch(apart, num_batches), **(defaults | arguments))
    with apart:
        try:
            getattr(trainer, function)(model, datamodule=data)
        except _DoneError:
            return
    raise AssertionError(f"{function} ended before {num_batches} batches")
