"""A stand-in for a GPU: torch's "meta" device, whose tensors have a device and a shape but no values.

Reading a value, as ``item``, ``if`` and a boolean index do, makes a GPU wait, and raises here. ``Apart`` detects the
rest: tensors of two devices in one operation, and copies for which a GPU would wait. Nothing detects what torch itself
makes from a list of numbers and sends: ``torch.tensor([1.0], device=...)``, or a list as an index.
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
    """Raises if an operation takes tensors of both devices, or, while ``forbids_waiting``, sends one and waits."""

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
    """The tensors among an operation's arguments, and in their lists; torch's own tree search takes longer."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


class Count(TorchDispatchMode):
    """Counts the operations that a GPU would run; a view runs none."""

    def __init__(self):
        super().__init__()
        self.num_operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        returned = operation._schema.returns
        self.num_operations += not any(value.alias_info and not value.alias_info.is_write for value in returned)
        return operation(*args, **(kwargs or {}))


class _Accelerator(CPUAccelerator):
    """Leaves the device as it is."""

    def setup_device(self, device):
        pass


class _Strategy(SingleDeviceStrategy):
    """The strategy of the one device; at the end, nothing is copied back from it."""

    def __init__(self):
        super().__init__(DEVICE, accelerator=_Accelerator())

    def teardown(self):
        pass


class Autocast(torch.autocast):
    """Autocast that also takes a device without half precision."""

    def __init__(self, device_type, *args, **kwargs):
        super().__init__("cpu" if device_type == "meta" else device_type, *args, **kwargs)


class _DoneError(Exception):
    pass


class _Watch(Callback):
    """Forbids waiting from the second batch on, and ends the run before anything is read from the device."""

    def __init__(self, apart, num_batches):
        self.apart, self.num_batches = apart, num_batches

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self._count(batch_idx)

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        self._count(batch_idx)

    def _count(self, batch_idx):
        self.apart.forbids_waiting = True
        if batch_idx + 1 == self.num_batches:
            raise _DoneError


def run(function, model, data, num_batches, monkeypatch, callbacks=(), **arguments):
    """Run Trainer.fit or Trainer.test, as ``function`` says, for ``num_batches`` batches on the valueless device."""
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
