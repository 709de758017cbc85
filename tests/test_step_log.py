"""Figures of training steps are logged where somebody sees them, and belong to the step that a line names."""

import pytest
import torch
from episodes import IMAGE_SHAPE, random_episode
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import TensorBoardLogger
from quiet_trainer import quiet_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from fewshot_pl import step_log
from fewshot_pl.algorithms import ProtoNet

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]
NUM_STEPS = 12


class Steps(Callback):
    """Keeps the loss of every batch, as it was minimised, and stops the training after step ``last``."""

    def __init__(self, last=None):
        self.last, self.losses = last, []

    def on_before_backward(self, trainer, pl_module, loss):
        self.losses.append(loss.item() * trainer.accumulate_grad_batches)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.should_stop = trainer.global_step == self.last


@pytest.fixture
def standing_clock(monkeypatch):
    monkeypatch.setattr(step_log.time, "monotonic", lambda: 100.0)


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The numbers of the batches that logged, and the step and loss of each line that was written."""

    def trained(*callbacks, num_batches=NUM_STEPS, **arguments):
        torch.manual_seed(0)
        model = ProtoNet(image_shape=IMAGE_SHAPE)
        logged, log = [], model.log
        monkeypatch.setattr(
            model, "log", lambda name, *args, **kw: logged.append((name, model.step)) or log(name, *args, **kw)
        )
        losses_of = model.training_losses
        model.step = 0

        def counted(batch):
            model.step += 1
            return losses_of(batch)

        monkeypatch.setattr(model, "training_losses", counted)
        defaults = {"max_epochs": 1, "log_every_n_steps": 5, "logger": TensorBoardLogger(tmp_path)}
        episodes = DataLoader([random_episode(seed=seed) for seed in range(num_batches)], batch_size=None)
        quiet_trainer(*callbacks, **(defaults | arguments)).fit(model, episodes)
        events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0"))
        events.Reload()
        written = events.Scalars("train/loss") if "train/loss" in events.Tags()["scalars"] else []
        lines = [(event.step + 1, event.value) for event in written]
        return [number for name, number in logged if name == "train/loss"], lines

    return trained


def test_of_the_first_step_the_lines_and_the_last(trained, standing_clock):
    steps = Steps()
    logged, lines = trained(steps)
    assert logged == [1, 5, 10, 12]
    assert lines == [(5, pytest.approx(steps.losses[4])), (10, pytest.approx(steps.losses[9]))]


def test_at_every_step_where_one_is_monitored(trained, standing_clock):
    logged, _ = trained(EarlyStopping("train/loss", check_on_train_epoch_end=True))
    assert logged == [*range(1, NUM_STEPS + 1)]


def test_twice_a_second(trained, monkeypatch):
    clock = iter(0.2 * number for number in range(1, 100))
    monkeypatch.setattr(step_log.time, "monotonic", lambda: next(clock))
    logged, _ = trained()
    assert logged == [1, 4, 5, 8, 10, 12]  # from 0.2 on, at 0.8 and 1.0 seconds, and so on


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_line_of_the_step_that_a_training_stops_with_is_its_own(trained, standing_clock, accumulate):
    steps = Steps(last=3)
    logged, lines = trained(steps, accumulate_grad_batches=accumulate)
    last = 3 * accumulate
    assert logged[-1] == last
    assert lines == [(3, pytest.approx(steps.losses[last - 1]))]


def test_without_lines(trained, standing_clock):
    logged, lines = trained(num_batches=3, log_every_n_steps=0, max_steps=2)
    assert logged == [1, 2] and lines == []


def test_a_figure_that_not_every_step_finds_is_the_last_one_found(standing_clock, tmp_path):
    class Sometimes(ProtoNet):
        def training_losses(self, batch):
            losses = super().training_losses(batch)
            return losses | {"step": torch.tensor(float(self.global_step))} if self.global_step in (1, 3) else losses

    def figures_of(num_steps):
        trainer = quiet_trainer(max_epochs=1)
        trainer.fit(model, DataLoader([random_episode()] * num_steps, batch_size=None))
        return trainer.callback_metrics

    model = Sometimes(image_shape=IMAGE_SHAPE)
    assert figures_of(num_steps=6)["train/step"] == 3
    assert "train/step" not in figures_of(num_steps=1)  # of another training


def test_a_step_needs_no_trainer():
    with pytest.warns(UserWarning, match="trainer` reference is not registered"):
        losses = ProtoNet(image_shape=IMAGE_SHAPE).training_step(random_episode(), 0)
    assert losses["loss"].requires_grad
