"""Two processes stop at the same step, whichever was told to, and resume exactly."""

import os
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import Callback
from pytorch_lightning.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from quiet_trainer import quiet_trainer
from tiny_trainings import assert_same, last_checkpoint, state, told, trained

from fewshot_pl.errors import Stopped
from fewshot_pl.resuming import EndOnSignal
from fewshot_pl.resuming.agreement import Agreement
from fewshot_pl.signals import ended_by_signals

pytestmark = pytest.mark.filterwarnings("ignore::Warning")


class TellSecondProcess(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_rank == 1 and trainer.fit_loop.total_batch_idx == 2:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_two_processes_stop_together_and_go_on_exactly(images, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    # Group norm, as running statistics are saved from the first process, but the second validates with its own.
    two = {"strategy": "ddp_fork", "devices": 2, "max_epochs": 1, "model": {"norm": "group"}}
    trained(images, whole, **two)
    with pytest.raises(Exception, match="exit"):
        trained(images, stopped, callbacks=[TellSecondProcess()], **two)
    assert torch.load(last_checkpoint(stopped), weights_only=True)["global_step"] in (3, 4)  # depends on when they ask
    trained(images, stopped, resume_from=last_checkpoint(stopped), **two)
    assert_same(state(stopped), state(whole))


class _Strategy:
    root_device = torch.device("cpu")
    asked = 0

    def reduce(self, tensor, reduce_op):
        assert reduce_op == "max"
        self.asked += 1
        return torch.maximum(tensor, torch.tensor([0, -5]))  # from another process, whose steps are slower


class _Trainer:
    world_size = 2
    strategy = _Strategy()


def test_processes_ask_each_other_now_and_then_and_not_at_every_step():
    agreement, trainer = Agreement(), _Trainer()
    assert [agreement.any_says(False, trainer) for _ in range(11)] == [False] * 11
    assert trainer.strategy.asked == 3  # at the first step, and then every fifth
    assert [agreement.any_says(True, trainer) for _ in range(5)] == [False] * 4 + [True]
    assert not agreement.any_says(False, trainer) and trainer.strategy.asked == 4
    assert agreement.any_says(True, trainer, now=True)


def test_who_is_told_to_end_an_evaluation_tells_the_processes_that_it_started(monkeypatch):
    signals = []
    launcher = _SubprocessScriptLauncher.__new__(_SubprocessScriptLauncher)
    launcher.procs = [SimpleNamespace(pid=0, send_signal=signals.append)]
    trainer = quiet_trainer()
    monkeypatch.setattr(trainer.strategy, "_launcher", launcher)
    with (
        pytest.raises(Stopped, match="SIGTERM stopped the evaluation: give the same command again"),
        ended_by_signals(),
    ):
        EndOnSignal().on_test_start(trainer, None)
        told(signal.SIGTERM)()
    assert signals == [signal.SIGTERM]
