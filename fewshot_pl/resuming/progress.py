"""Where training stands among its steps and validations, and whether it could resume from there."""

from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.loops.progress import _ProcessedTracker


def is_resumable(trainer: Trainer) -> bool:
    """Whether training would resume exactly from a checkpoint saved at this moment.

    It would between two steps of the optimiser, as a checkpoint holds neither gradients nor half a step. After the last
    step of an epoch, moreover, a validation must be due or the epoch must have ended.
    """
    fit_loop = trainer.fit_loop
    batches, epochs = fit_loop.epoch_loop.batch_progress.current, fit_loop.epoch_progress.current
    assert isinstance(batches, _ProcessedTracker) and isinstance(epochs, _ProcessedTracker)
    if batches.ready == 0 or batches.ready != batches.processed or fit_loop.epoch_loop._should_accumulate():
        return False
    if not fit_loop.epoch_loop._num_ready_batches_reached() or validation_is_due(trainer):
        return True
    # With max_steps, Lightning would count an epoch twice.
    return epochs.processed == epochs.started and not fit_loop._iteration_based_training()


def validation_is_due(trainer: Trainer) -> bool:
    """Whether a validation is running or comes before the next step; stays true after it until that step begins.

    Not that which Lightning adds where training is told to stop.
    """
    batches = trainer.fit_loop._data_fetcher
    told, trainer.should_stop = trainer.should_stop, False
    is_due = batches is not None and trainer.fit_loop.epoch_loop._should_check_val_fx(batches)
    trainer.should_stop = told
    return trainer.validating or is_due


def settle(loops: dict[str, Any], validation_is_due: bool) -> None:
    """Change the loops' part of a checkpoint so that Lightning goes on within the epoch, and validates if that is due.

    It takes an epoch that a stop broke off, and a validation that had not started, for done. It reruns a validation
    that the checkpoint says was interrupted.

    Args:
        loops: ``checkpoint["loops"]``, changed in place.
        validation_is_due: whether a validation has yet to run, or to end.
    """
    fit = loops["fit_loop"]
    batches, validation = fit["epoch_loop.batch_progress"], fit["epoch_loop.val_loop.batch_progress"]
    for epochs in fit["epoch_progress"].values():
        if not batches["is_last_batch"] and epochs["processed"] > epochs["completed"]:
            epochs["processed"] = epochs["completed"]
    done = validation["total"]["completed"]
    validation["total"].update(ready=done, started=done, processed=done)
    if validation_is_due:
        for span in ("total", "current"):
            batches[span]["completed"] = batches[span]["processed"]
        validation["total"].update(ready=done + 1, started=done + 1)
        validation["current"].update(ready=1, started=1, processed=0, completed=0)
