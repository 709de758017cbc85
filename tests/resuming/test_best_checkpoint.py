"""The score of each checkpoint that is kept is what validation measured of its weights."""

import signal
from datetime import timedelta

import pytest
import torch
from pytorch_lightning.callbacks import LambdaCallback
from tiny_trainings import At, last_checkpoint, told, trained

from fewshot_pl.errors import Stopped

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")

# When a checkpoint is due, other settings, and the steps after which one is kept, in 5 epochs of 4 batches.
DUE = {
    "steps": ({"every_n_train_steps": 3}, {}, [4, 8, 12, 16, 20]),
    "steps of which some end an epoch": ({"every_n_train_steps": 6}, {}, [8, 12, 20]),
    "steps, and validations within an epoch": (
        {"every_n_train_steps": 3},
        {"val_check_interval": 2},
        [4, 6, 10, 12, 16, 18],
    ),
    "steps of several batches": ({"every_n_train_steps": 3}, {"accumulate_grad_batches": 3}, [4, 6, 10]),
    "a time": ({"train_time_interval": timedelta(0)}, {}, [4, 8, 12, 16, 20]),
    "epochs that are not all validated": ({"save_on_train_epoch_end": True}, {"check_val_every_n_epoch": 2}, [8, 16]),
}


def kept(trainer):
    """The steps of the checkpoints that are kept, with their scores."""
    scores = trainer.checkpoint_callback.best_k_models
    return {torch.load(path, weights_only=True)["global_step"]: float(score) for path, score in scores.items()}


@pytest.mark.parametrize(("due", "flags", "steps"), DUE.values(), ids=DUE)
def test_a_score_is_that_of_the_weights_beside_it(due, flags, steps, images, tmp_path):
    measured = {}

    def note(trainer, _):
        measured[trainer.global_step] = float(trainer.callback_metrics["val/loss"])

    noting = LambdaCallback(on_validation_end=note)
    best = {"monitor": "val/loss", "save_top_k": -1, **due}
    trainer, _ = trained(images, tmp_path, callbacks=[noting], best=best, max_epochs=5, **flags)
    assert kept(trainer) == {step: measured[step] for step in steps}


def test_a_save_that_waits_for_validation_outlives_a_stop(images, tmp_path):
    settings = {"best": {"every_n_train_steps": 3}, "max_epochs": 1}
    with pytest.raises(Stopped):
        trained(images, tmp_path, callbacks=[At("on_train_batch_start", 4, told(signal.SIGTERM))], **settings)
    assert not (tmp_path / "checkpoints" / "best.ckpt").exists()
    trainer, _ = trained(images, tmp_path, resume_from=last_checkpoint(tmp_path), **settings)
    assert list(kept(trainer)) == [4]
