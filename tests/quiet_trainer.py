"""A quiet Trainer, what is trained with it in a step, and a stand-in for one (``pythonpath`` makes this importable)."""

from types import SimpleNamespace

from pytorch_lightning import Trainer
from pytorch_lightning.plugins.precision import Precision

_OFF = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def quiet_trainer(*callbacks, **arguments):
    """With Lightning's defaults in all that matters to the numbers; the arguments come before what is set here."""
    return Trainer(**{"accelerator": "cpu", "callbacks": list(callbacks), **_OFF, **arguments})


def one_step_checkpoint(model, data, path):
    """Writes a checkpoint of a model after a step of training on a data module."""
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(path)


def on_device(data, rank, of):
    """Tells a data module, in place of a Trainer, which of so many devices it is on."""
    place = {"world_size": of, "global_rank": rank}
    data.trainer = SimpleNamespace(**place, lightning_module=None, precision_plugin=Precision())
