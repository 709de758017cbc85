from types import SimpleNamespace

import pytest
import torch

from fewshot_pl.callbacks import EpisodeBar, EpisodeLines, EpisodeRate, progress, progress_bar
from fewshot_pl.callbacks.progress import RATE, metric_lines


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when told; ``clock.now`` in seconds."""
    clock = SimpleNamespace(now=0.0)
    for name in ("perf_counter", "monotonic"):
        monkeypatch.setattr(progress.time, name, lambda: clock.now)
    return clock


def looked_at(**attributes):
    """A Trainer whose logger writes a line at every step."""
    never = {"is_last_batch": False, "should_stop": False, "max_steps": -1, "callbacks": [], "lr_scheduler_configs": []}
    return SimpleNamespace(log_every_n_steps=1, global_step=1, **never, **attributes)


class Rates:
    """A LightningModule that keeps the rates logged to it."""

    def __init__(self):
        self.logged = []

    def log(self, name, value, **_):
        assert name == RATE
        self.logged.append(value.item())


def test_rate_is_a_mean_over_a_window_of_all_devices(clock, episode):
    rate, module, trainer = EpisodeRate(window=2), Rates(), looked_at(world_size=3)
    for seconds in (1.0, 1.0, 2.0, 4.0):
        rate.on_train_batch_start(trainer, module, episode(num_tasks=2), 0)
        clock.now += seconds
        rate.on_train_batch_end(trainer, module, None, episode(num_tasks=2), 0)
    assert module.logged == pytest.approx([6 / 1, 12 / 2, 12 / 3, 12 / 6])


def test_rate_counts_waiting_for_data_but_not_validation(clock, episode):
    rate, module, trainer = EpisodeRate(), Rates(), looked_at(world_size=1)

    def train_batch():
        rate.on_train_batch_start(trainer, module, episode(num_tasks=2), 0)
        clock.now += 1
        rate.on_train_batch_end(trainer, module, None, episode(num_tasks=2), 0)

    train_batch()
    clock.now += 1  # waiting for data
    train_batch()
    rate.on_validation_start(trainer, module)
    clock.now += 100
    train_batch()
    rate.on_train_epoch_end(trainer, module)
    clock.now += 100
    train_batch()
    assert module.logged == pytest.approx([2 / 1, 4 / 3, 6 / 4, 8 / 5])


def test_rate_is_logged(fit, events):
    trainer = fit(EpisodeRate())
    assert trainer.progress_bar_metrics[RATE] > 0
    assert len(events().Scalars(RATE)) == 8


def test_metric_lines():
    metrics = {"train/loss": 0.5, "train/accuracy": 0.81, RATE: 312.04, "val/accuracy": 0.79, "mine": "yes"}
    lines = {"train": "loss=0.500 accuracy=0.810 episodes/s=312.0", "val": "accuracy=0.790", "other": "mine=yes"}
    assert metric_lines(metrics) == lines


def test_lines_one_per_validation(fit, capsys):
    fit(EpisodeLines(), EpisodeRate(), val_check_interval=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["epoch 0", "step 2"],
        ["epoch 0", "step 4"],
        ["epoch 1", "step 6"],
        ["epoch 1", "step 8"],
    ]
    for line in lines:
        assert line.split("train: ")[1].startswith("loss=")
        assert " episodes/s=" in line
        assert "  val: accuracy=" in line


def test_lines_one_per_epoch_without_validation(fit, capsys):
    fit(EpisodeLines(), limit_val_batches=0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  train")[0] for line in lines] == ["epoch 0  step 4", "epoch 1  step 8"]


def test_lines_show_means_over_the_batches_since_the_line_before(fit, events, capsys):
    fit(EpisodeLines())
    losses = [event.value for event in events().Scalars("train/loss")]
    shown = [float(line.split("loss=")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert shown == pytest.approx([sum(losses[:4]) / 4, sum(losses[4:]) / 4], abs=6e-4)


def test_lines_show_means_over_the_batches_that_have_a_figure(capsys):
    lines, trainer = EpisodeLines(), looked_at(accumulate_grad_batches=2, callback_metrics={}, progress_bar_metrics={})
    trainer.current_epoch = 0
    for outputs in ({"loss": torch.tensor(0.5), "accuracy": torch.tensor(0.75)}, {"loss": torch.tensor(1.0)}):
        lines.on_train_batch_end(trainer, None, outputs, None, 0)
    lines._print_line(trainer)
    assert "loss=1.500 accuracy=0.750" in capsys.readouterr().out


def test_lines_are_printed_by_rank_zero_only(fit, capsys):
    class OtherRank(EpisodeLines):
        def setup(self, trainer, pl_module, stage):
            self.disable()

    fit(OtherRank())
    assert capsys.readouterr().out == ""


def test_bar_fits_80_columns(fit, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    fit(EpisodeBar(), EpisodeRate())
    shown = capsys.readouterr().out.rstrip().splitlines()  # off a terminal, rich prints the last state only
    assert shown[0].startswith("Epoch 1/1")
    assert "4/4" in shown[0]
    assert "train: loss=" in shown[0]
    assert "accuracy=" in shown[0]
    assert any("episodes/s=" in line for line in shown)
    assert "val: accuracy=" in shown[-1]
    assert len(shown) <= 3
    assert "v_num" not in "".join(shown)


def test_bar_reads_metrics_from_the_device_twice_a_second_and_after_validation(clock, monkeypatch):
    reads = []
    monkeypatch.setattr(progress, "_shown_metrics", lambda trainer: reads.append(clock.now) or {"train/loss": 1.0})
    bar, trainer = EpisodeBar(), SimpleNamespace(validating=False)
    for clock.now in (10.0, 10.1, 10.4, 10.6, 10.7):
        assert bar.get_metrics(trainer, None) == {"train": "loss=1.000"}
    assert reads == [10.0, 10.6]
    trainer.validating = True
    bar.get_metrics(trainer, None)
    assert reads == [10.0, 10.6, 10.7]


def test_a_terminal_gets_a_bar_and_a_file_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    for is_terminal, kind in ((True, EpisodeBar), (False, EpisodeLines)):
        monkeypatch.setattr("sys.stdout.isatty", lambda answer=is_terminal: answer)
        assert type(progress_bar()) is kind
