"""A Trainer on the CPU that writes and shows nothing, and a step of it (``pythonpath`` makes this importable)."""

from pytorch_lightning import Trainer

_OFF = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def quiet_trainer(*callbacks, **arguments):
    """With Lightning's defaults in all that matters to the numbers; the arguments come before what is set here."""
    return Trainer(**{"accelerator": "cpu", "callbacks": list(callbacks), **_OFF, **arguments})


def one_step_checkpoint(model, data, path):
    """Writes a checkpoint of a model after a step of training on a data module."""
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    trainer.fit(model, datamodule=data)
    trainer.save_checkpoint(path)
