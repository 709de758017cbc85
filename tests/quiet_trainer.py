"""A Trainer on the CPU that writes and shows nothing (``pythonpath`` makes this importable)."""

from pytorch_lightning import Trainer

_OFF = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def quiet_trainer(*callbacks, **arguments):
    """With Lightning's defaults in all that matters to the numbers; the arguments come before what is set here."""
    return Trainer(**{"accelerator": "cpu", "callbacks": list(callbacks), **_OFF, **arguments})
