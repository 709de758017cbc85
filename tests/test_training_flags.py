"""The results of train.py's flags and config files: the trainer, its callbacks, and the saved configuration."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import Namespace
from pytorch_lightning.callbacks import ProgressBar, Timer
from pytorch_lightning.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

from fewshot_pl.cli import TrainCLI
from fewshot_pl.resuming import BestCheckpoint, WholeCheckpoints
from fewshot_pl.training.saved_config import configuration_text

pytestmark = pytest.mark.filterwarnings("ignore::Warning")
Made = Callable[..., TrainCLI]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """A function that makes what ``train.py`` makes of a command line, without training."""

    def made(*args: str) -> TrainCLI:
        return TrainCLI([*args, f"--runs={tmp_path / 'runs'}", "--trainer.accelerator=cpu"])

    return made


def again(cli: TrainCLI, made: Made, *args: str) -> TrainCLI:
    """What ``train.py`` makes of the configuration that a run saves, followed by more flags."""
    cli.save_config()
    assert cli.run_folder
    return made(f"--config={cli.run_folder / 'config.yaml'}", *args)


def choice(cli: TrainCLI) -> tuple[str | None, str]:
    """The figure that chooses the best checkpoint, and its mode."""
    (best,) = [one for one in cli.trainer.checkpoint_callbacks if isinstance(one, BestCheckpoint)]
    return best.monitor, best.mode


@pytest.mark.parametrize(
    ("figure", "better"),
    [
        ("val/loss", "min"),
        ("val/nll", "min"),
        ("train/query_loss", "min"),
        ("val/ci95", "min"),
        ("val/accuracy", "max"),
    ],
)
def test_the_best_checkpoint_is_at_the_better_end_of_its_figure(figure: str, better: str, made: Made) -> None:
    assert choice(made(f"--checkpoint.monitor={figure}")) == (figure, better)


def test_the_better_end_follows_the_benchmark_and_a_file_and_what_is_said(made: Made, tmp_path: Path) -> None:
    assert choice(made()) == ("val/accuracy", "max")
    assert choice(made("--data=Sinusoid", "--model=MAML", "--model.backbone=mlp-4", "--model.norm=none"))[1] == "min"
    assert choice(made("--checkpoint.monitor=val/loss", "--checkpoint.mode=max")) == ("val/loss", "max")
    assert choice(made("--checkpoint.monitor=val/own", "--checkpoint.mode=max")) == ("val/own", "max")
    (tmp_path / "given.yaml").write_text("checkpoint:\n  monitor: val/brier\n")
    cli = made(f"--config={tmp_path / 'given.yaml'}")
    assert choice(cli) == choice(again(cli, made)) == ("val/brier", "min")
    assert choice(again(cli, made, "--checkpoint.monitor=val/accuracy")) == ("val/accuracy", "max")


@pytest.mark.parametrize(
    ("words", "ends"),
    [
        ((), (15, -1, None)),
        (("--trainer.max_epochs=3",), (3, -1, None)),
        (("--trainer.max_epochs=null", "--trainer.max_steps=-1"), (15, -1, None)),
        (("--trainer.max_steps=100000",), (None, 100000, None)),
        (("--trainer.max_time=01:00:00:00",), (None, -1, 86400)),
        (("--trainer.max_steps=9", "--trainer.max_epochs=2"), (2, 9, None)),
    ],
)
def test_training_is_as_long_as_flags_say_and_15_epochs_where_none_does(
    words: tuple[str, ...], ends: tuple[int | None, int, int | None], made: Made, tmp_path: Path
) -> None:
    def length(cli: TrainCLI) -> tuple[int | None, int, float | None]:
        timers = [one for one in cli.trainer.callbacks if isinstance(one, Timer)]
        return cli.trainer.max_epochs, cli.trainer.max_steps, timers[0].time_remaining() if timers else None

    cli = made(*words)
    assert length(cli) == length(again(cli, made)) == ends
    settings = [word.removeprefix("--trainer.").split("=", 1) for word in words]
    file = tmp_path / "given.yaml"
    file.write_text(yaml.safe_dump({"trainer": {name: yaml.safe_load(value) for name, value in settings}}))
    assert length(made(f"--config={file}")) == ends
    assert length(made(f"--config={file}", "--trainer.max_steps=7"))[1] == 7


def test_a_timer_says_when_training_ends_and_the_help_says_what_does_without(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    timer = ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration=00:01:00:00"]
    assert made(*timer).trainer.max_epochs is None
    with pytest.raises(SystemExit):
        made("--help")
    assert "15 where neither this nor max_steps or max_time" in " ".join(capsys.readouterr().out.split())


def test_the_help_says_what_the_seed_is_of(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        made("--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "seed of the weights and of what training draws, a whole number" in told and "Set to True" not in told


SMALLER = {
    "an epoch": (["--data.batches_per_epoch=10"], "10 batches .* takes 2: pass --data.batches_per_epoch 12 for"),
    "a shorter epoch": (
        ["--data.batches_per_epoch=8", "--trainer.limit_train_batches=7"],
        "7 batches .* takes 3: pass --trainer.limit_train_batches 8 for",
    ),
    "a part of an epoch": (
        ["--data.batches_per_epoch=20", "--trainer.limit_train_batches=0.25"],
        "5 batches .* takes 1: pass --trainer.limit_train_batches 8 for",
    ),
    "less than a step": (["--data.batches_per_epoch=3"], "takes 3: pass --data.batches_per_epoch 4 for"),
}


@pytest.mark.parametrize(("words", "warned"), SMALLER.values(), ids=SMALLER)
def test_a_smaller_last_step_of_each_epoch_is_warned_of(words: list[str], warned: str, made: Made) -> None:
    with pytest.warns(UserWarning, match=warned):
        made("--trainer.accumulate_grad_batches=4", *words)


@pytest.mark.filterwarnings("error:.*no multiple of --trainer.accumulate_grad_batches")
def test_no_smaller_step_is_warned_of_where_there_is_none(made: Made) -> None:
    made("--trainer.accumulate_grad_batches=4", "--data.batches_per_epoch=12")
    made("--data.batches_per_epoch=7")
    made("--trainer.accumulate_grad_batches=4", "--data.batches_per_epoch=7", "--trainer.fast_dev_run=true")


@pytest.mark.parametrize("name", ["TQDMProgressBar", "RichProgressBar"])
def test_a_progress_bar_of_the_users_takes_the_place_of_ours(name: str, made: Made) -> None:
    bars = [one for one in made(f"--trainer.callbacks+={name}").trainer.callbacks if isinstance(one, ProgressBar)]
    assert [type(bar).__name__ for bar in bars] == [name]


def test_checkpoints_are_whole_when_written_beside_training_and_a_writer_of_the_users_is_taken(made: Made) -> None:
    beside = made("--trainer.plugins=AsyncCheckpointIO").trainer.strategy.checkpoint_io
    assert isinstance(beside, AsyncCheckpointIO) and isinstance(beside.checkpoint_io, WholeCheckpoints)
    assert type(made("--trainer.plugins=TorchCheckpointIO").trainer.strategy.checkpoint_io) is TorchCheckpointIO
    assert isinstance(made().trainer.strategy.checkpoint_io, WholeCheckpoints)


NOT_PLAIN = {
    "an enumeration": ["Timer", "--trainer.callbacks.duration=00:01:00:00"],
    "averages": ["EMAWeightAveraging", "--trainer.callbacks.device=cpu"],
    "a function": ["BackboneFinetuning"],
    "a word where a function may stand": ["ModelPruning", "--trainer.callbacks.pruning_fn=l1_unstructured"],
}


@pytest.mark.parametrize("words", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_a_saved_configuration_makes_the_same_callbacks(words: list[str], made: Made) -> None:
    cli = made(f"--trainer.callbacks+={words[0]}", *words[1:])
    repeated = again(cli, made)
    kinds = [[type(callback) for callback in one.trainer.callbacks] for one in (cli, repeated)]
    assert kinds[0] == kinds[1]
    again(repeated, made)
    assert cli.run_folder and repeated.run_folder
    first, second = (yaml.safe_load((one.run_folder / "config.yaml").read_text()) for one in (cli, repeated))
    assert first["trainer"] == second["trainer"]


def test_a_configuration_leaves_out_what_cannot_be_written() -> None:
    def dump(config: Namespace) -> str:
        written = {"number": config.number, "device": config.device}
        return yaml.safe_dump({"function": f"Unable to serialize instance {config.function}", **written})

    config = Namespace(function=lambda: None, number=1, odd=object(), device=torch.device("cpu"))
    with pytest.warns(UserWarning, match="cannot be written") as warned:
        text = configuration_text(dump, config)
    assert yaml.safe_load(text) == {"number": 1, "device": "cpu"}
    assert [str(one.message).split()[0] for one in warned] == ["odd", "function"]
