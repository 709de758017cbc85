"""Training that is told to stop, as by a time limit, goes on from there with the weights of one that never stopped."""

from datetime import timedelta

import pytest
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, Timer
from tiny_trainings import assert_same, last_checkpoint, state, trained

from fewshot_pl.algorithms import ProtoNet

pytestmark = pytest.mark.filterwarnings("ignore::Warning")
STEPS_OF_TWO = {"accumulate_grad_batches": 2}
BY_STEPS = {"max_steps": 10, "max_epochs": -1}


class StopAfter(Callback):
    """Tells training to stop when ``num_batches`` batches have ended over all epochs."""

    def __init__(self, num_batches):
        self.num_batches = num_batches

    def on_train_batch_end(self, trainer, *_):
        if trainer.fit_loop.total_batch_idx + 1 == self.num_batches:
            trainer.should_stop = True


def training(folder):
    """The state in ``last.ckpt`` but for the best score, as Lightning validates once more where training stops."""
    found = state(folder)
    del found["best"]
    return found


STOPS = {  # settings, the batch after which training is told to stop, and the step after which it stops
    "validated": ({}, 6, 6),
    "unvalidated": ({"limit_val_batches": 0}, 2, 2),
    "in an epoch without validation": ({"check_val_every_n_epoch": 2}, 2, 2),
    "between validations": ({"val_check_interval": 2}, 3, 3),
    "at a validation": ({"val_check_interval": 2}, 2, 2),
    "at an epoch's end": ({}, 4, 4),
    "at an epoch's end, unvalidated": ({"limit_val_batches": 0}, 4, 4),
    "at an epoch's end, after its validation": ({"val_check_interval": 3}, 4, 4),
    "while gradients accumulate": (STEPS_OF_TWO, 1, 1),
    "while gradients accumulate, in the second epoch": (STEPS_OF_TWO, 7, 4),
    "while gradients accumulate, unvalidated": ({**STEPS_OF_TWO, "limit_val_batches": 0}, 1, 1),
    "between steps": (STEPS_OF_TWO, 2, 1),
    "counting steps": (BY_STEPS, 2, 2),
    "counting steps, at an epoch's end": (BY_STEPS, 4, 4),
    "counting steps, at an epoch's end, unvalidated": ({**BY_STEPS, "limit_val_batches": 0}, 4, 5),
    "counting steps, at the last": (BY_STEPS, 10, 10),
}


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
def test_told_to_stop_it_goes_on_exactly(stop, images, tmp_path):
    settings, num_batches, num_steps = stop
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trained(images, whole, **settings)
    trainer, _ = trained(images, stopped, callbacks=[StopAfter(num_batches)], **settings)
    assert trainer.global_step == state(stopped)["global_step"] == num_steps
    trained(images, stopped, resume_from=last_checkpoint(stopped), **settings)
    assert_same(training(stopped), training(whole))


@pytest.mark.parametrize("settings", [{"check_val_every_n_epoch": 2}, STEPS_OF_TWO])
def test_after_a_time_limit_it_goes_on_exactly(settings, images, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trained(images, whole, **settings)
    trained(images, stopped, callbacks=[Timer(timedelta(microseconds=1))], **settings)
    assert state(stopped)["global_step"] == 1
    trained(images, stopped, resume_from=last_checkpoint(stopped), callbacks=[Timer(timedelta(days=1))], **settings)
    assert_same(training(stopped), training(whole))


def test_the_validation_at_a_stop_does_not_count_for_early_stopping(images, tmp_path):
    def with_patience(*callbacks, **resumed):
        stopping = EarlyStopping("val/accuracy", mode="max", min_delta=2, patience=2)  # nothing improves by that much
        return trained(images, tmp_path, callbacks=[stopping, *callbacks], val_check_interval=2, **resumed)[
            0
        ].global_step

    assert with_patience(StopAfter(3)) == 3
    assert with_patience(resume_from=last_checkpoint(tmp_path)) == 6


@pytest.mark.parametrize("settings", [{}, STEPS_OF_TWO, {**STEPS_OF_TWO, "limit_val_batches": 0}])
def test_the_least_number_of_epochs_is_trained_all_the_same(settings, images, tmp_path):
    trainer, _ = trained(images, tmp_path, callbacks=[StopAfter(1)], min_epochs=1, **settings)
    assert trainer.fit_loop.total_batch_idx + 1 == 4


@pytest.mark.parametrize("settings", [{}, {"check_val_every_n_epoch": 2}])
def test_a_stop_by_an_algorithm_of_the_users_goes_on_exactly(settings, images, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trained(images, whole, **settings)
    with monkeypatch.context() as patched:  # in the hook that Lightning calls after those of all callbacks
        patched.setattr(ProtoNet, "on_train_batch_end", lambda self, *_: StopAfter(2).on_train_batch_end(self.trainer))
        trained(images, stopped, **settings)
    assert state(stopped)["global_step"] == 2
    trained(images, stopped, resume_from=last_checkpoint(stopped), **settings)
    for part in ("state_dict", "optimizer_states", "global_step", "epoch"):
        assert_same(state(stopped)[part], state(whole)[part])
