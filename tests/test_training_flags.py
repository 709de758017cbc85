"""What flags and configuration files of train.py become: the trainer, its callbacks, and the saved configuration."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fewshot_pl.cli import TrainCLI
from fewshot_pl.resuming import BestCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore::Warning")
Made = Callable[..., TrainCLI]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """What ``train.py`` makes of a command line, without training."""

    def made(*args: str) -> TrainCLI:
        return TrainCLI([*args, f"--runs={tmp_path / 'runs'}", "--trainer.accelerator=cpu"])

    return made


def again(cli: TrainCLI, made: Made, *args: str) -> TrainCLI:
    """What the configuration that a run saves makes, with more flags behind it."""
    cli.save_config()
    assert cli.run_folder
    return made(f"--config={cli.run_folder / 'config.yaml'}", *args)


def choice(cli: TrainCLI) -> tuple[str | None, str]:
    """The figure that chooses the best checkpoint, and its better end."""
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
