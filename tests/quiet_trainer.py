"""A quiet Trainer, a checkpoint after a step with it, and a stand-in for it (``pythonpath`` makes this importable)."""

from types import SimpleNamespace

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import Precision

_OFF = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def quiet_trainer(*callbacks, **arguments):
    """A Trainer with Lightning's defaults in all that affects the numbers; ``arguments`` override what is set here."""
    return Trainer(**{"accelerator": "cpu", "callbacks": list(callbacks), **_OFF, **arguments})


def one_step_checkpoint(model, data, path):
    """Write the checkpoint of a model after one training step on a data module."""
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(path)


def on_device(data, rank=0, of=1, kind="cpu"):
    """Tell a data module, in place of a Trainer, which of how many devices of a kind, which may not exist, it is on."""
    place = {"world_size": of, "global_rank": rank, "strategy": SimpleNamespace(root_device=torch.device(kind))}
    settings = {"lightning_module": None, "precision_plugin": Precision(), "overfit_batches": 0}
    data.trainer = SimpleNamespace(**place, **settings)
