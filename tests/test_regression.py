"""Few-shot regression through the commands: training, choice of the checkpoint, tests after any number of steps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fewshot_pl.cli import evaluate, train

MLP = ["--model.backbone", "mlp-40-40", "--model.norm", "none", "--model.task_parallel", "vmap"]
pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning"),
    pytest.mark.xdist_group("regression"),  # one process trains for all
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a MAML trained on sinusoids for 1,000 steps of 25 tasks, in about ten seconds."""
    runs = tmp_path_factory.mktemp("runs")
    maml = ["--model", "MAML", *MLP, "--model.inner_lr", "0.01", "--model.num_inner_steps_test", "2"]
    size = ["--data.batches_per_epoch", "250", "--trainer.max_epochs", "4", "--data.num_test_episodes", "500"]
    places = ["--runs", str(runs), "--trainer.accelerator", "cpu"]
    assert train(["--data", "Sinusoid", *maml, *size, *places]) == 0
    return runs / "Sinusoid" / "MAML" / "0"


def evaluated(run: Path, output: Path, *flags: str) -> dict[str, Any]:
    checkpoint = str(run / "checkpoints" / "best.ckpt")
    assert evaluate(["--ckpt_path", checkpoint, "--trainer.accelerator", "cpu", "--output", str(output), *flags]) == 0
    loaded: dict[str, Any] = json.loads(output.read_text())
    return loaded


def test_training_makes_adaptation_lower_the_error(run: Path, tmp_path: Path) -> None:
    errors = [evaluated(run, tmp_path / "result.json", "--num_inner_steps", str(n))["mse"] for n in (0, 1, 2)]
    # From torch's own initialisation, the error before adaptation stays near the variance of the curves, about 3.
    assert errors[1] < 1.6 and errors[1] < 0.6 * errors[0]
    assert errors[2] < errors[1]


def test_result_is_a_squared_error_with_its_interval(run: Path, tmp_path: Path, capsys: Any) -> None:
    trained = json.loads((run / "results.json").read_text())
    again = evaluated(run, tmp_path / "again.json")
    assert "accuracy" not in trained and trained["ci95"] > 0
    assert (again["mse"], again["ci95"]) == (trained["mse"], trained["ci95"])
    printed = capsys.readouterr().out
    assert "10 points" in printed and f"{again['mse']:.3f}" in printed
    fewer = evaluated(run, tmp_path / "fewer.json", "--data.num_shots", "5", "--num_episodes", "300")
    assert (fewer["num_shots"], fewer["num_episodes"]) == (5, 300)
    assert fewer["mse"] > trained["mse"]


def test_the_best_checkpoint_has_the_lowest_error(run: Path) -> None:
    best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    errors: dict[int, float] = {}
    tags: set[str] = set()
    for file in run.glob("events.*"):
        events = EventAccumulator(str(file)).Reload()
        tags |= set(events.Tags()["images"])
        if "val/mse" in events.Tags()["scalars"]:
            errors |= {event.step: event.value for event in events.Scalars("val/mse")}
    assert len(errors) == 4 and tags == {"val/regression"}
    assert errors[best["global_step"] - 1] == min(errors.values())


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "MAML"], "pass --model.backbone mlp-40-40 --model.norm none"),
        (["--model", "ProtoNet", *MLP], "ProtoNet only classifies: use MAML"),
        (["--model", "MAML", *MLP, "--data.num_ways", "5"], "num_ways"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: Any = train(["--data", "Sinusoid", *flags, "--runs", str(tmp_path), "--trainer.accelerator", "cpu"])
    except SystemExit as stopped:
        code = stopped.code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and sentence in errors[0]


def test_steps_are_refused_of_a_method_without_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = ["--data.cache_dir", str(tmp_path / "cache")]
    counts = [f"--data.{name}=1" for name in ("batches_per_epoch", "num_val_episodes", "num_test_episodes")]
    assert train([*cache, *counts, "--trainer.max_epochs=1", "--runs", str(tmp_path), "--trainer.accelerator=cpu"]) == 0
    checkpoint = tmp_path / "Glyphs" / "ProtoNet" / "0" / "checkpoints" / "best.ckpt"
    assert evaluate(["--ckpt_path", str(checkpoint), "--num_inner_steps", "3"]) == 2
    assert "ProtoNet adapts to a task without steps: leave out --num_inner_steps" in capsys.readouterr().err
