"""evaluate.py on a grid of tasks and on several checkpoints, through its entry point."""

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_trainings import told

from fewshot_pl.algorithms import ProtoNet
from fewshot_pl.benchmarks import ImageFolder
from fewshot_pl.checkpoints import load_algorithm, opened_checkpoint
from fewshot_pl.cli import evaluate
from fewshot_pl.data.stored_datamodule import StoredDataModule

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
FIGURES = ("accuracy", "ci95", "nll", "ece", "brier", "loss")
Run = Any


@pytest.fixture
def run(cpu: list[str], tmp_path: Path) -> Run:
    """A function that evaluates with flags, and returns the results written as JSON."""

    def run(*flags: str) -> Any:
        output = tmp_path / "results.json"
        assert evaluate([*flags, *cpu, "--output", str(output)]) == 0
        return json.loads(output.read_text())

    return run


def plain_accuracies(checkpoint: str) -> NDArray[np.float64]:
    """The accuracy of each test episode, one by one."""
    model = load_algorithm(checkpoint)
    data = ImageFolder(**opened_checkpoint(checkpoint)["datamodule_hyper_parameters"])
    data.prepare_data()
    data.setup("test")
    accuracies = []
    for number in range(data.num_episodes["test"]):
        episode = data.fixed_episodes("test", number)
        with torch.no_grad():
            answers = model(episode)[0].argmax(-1)
        accuracies.append((answers == episode.query_y[0]).double().mean().item())
    return np.array(accuracies)


def test_a_grid_is_the_same_as_single_evaluations(checkpoints: dict[str, str], run: Run) -> None:
    first = ["--ckpt_path", checkpoints["first"]]
    grid = run(*first, "--ways", "2", "5", "--shots", "1", "3")
    assert [(cell["num_ways"], cell["num_shots"]) for cell in grid] == [(2, 1), (2, 3), (5, 1), (5, 3)]
    for cell in grid:
        single = run(*first, f"--data.num_ways={cell['num_ways']}", f"--data.num_shots={cell['num_shots']}")
        assert cell == {**single, "wall_time_s": cell["wall_time_s"]}
    assert len({cell["accuracy"] for cell in grid}) > 1


def test_ways_and_shots_alone_make_a_grid_too(checkpoints: dict[str, str], run: Run) -> None:
    assert [cell["num_shots"] for cell in run("--ckpt_path", checkpoints["maml"], "--shots", "1", "2")] == [1, 2]
    one = run("--ckpt_path", checkpoints["first"], "--ways", "4", "--data.num_shots", "2", "--split", "val")
    assert (one["num_ways"], one["num_shots"], one["split"]) == (4, 2, "val")


def test_a_grid_opens_each_store_once(checkpoints: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    packed = StoredDataModule._packed

    def counted(self: StoredDataModule, split: Any) -> Any:
        opened.append(split)
        return packed(self, split)

    monkeypatch.setattr(StoredDataModule, "_packed", counted)
    run("--ckpt_path", checkpoints["first"], "--ways", "2", "5", "--shots", "1", "3")
    assert sorted(opened) == ["test", "train", "val"]


def test_checkpoints_are_read_once(checkpoints: dict[str, str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = torch.load

    def counted(path: Any, *args: Any, **kwargs: Any) -> Any:
        read.append(str(path))
        return load(path, *args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    both = [checkpoints["first"], checkpoints["maml"]]
    run("--compare", *both)
    assert sorted(read) == sorted(both)


def test_a_comparison_is_that_of_each_episode_with_itself(
    checkpoints: dict[str, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("first", "second", "maml")
    results = dict(zip(names, run("--compare", *(checkpoints[name] for name in names)), strict=True))
    printed = capsys.readouterr().out
    accuracies = {name: plain_accuracies(checkpoints[name]) for name in names}
    assert results["first"]["difference"] is None and results["first"]["difference_ci95"] is None
    for name in names[1:]:
        differences = accuracies[name] - accuracies["first"]
        mean, interval = differences.mean(), 1.96 * differences.std() / np.sqrt(len(differences))
        assert len(set(differences)) > 1
        assert results[name]["difference"] == pytest.approx(mean, abs=1e-7)
        assert results[name]["difference_ci95"] == pytest.approx(interval, abs=1e-7)
        verdict = "larger than" if abs(mean) > interval else "not larger than"
        numbers = f"{100 * mean:+.2f} ± {100 * interval:.2f} points"
        assert (
            f"{results[name]['label']} less ProtoNet 0, 3-way 1-shot: {numbers}, {verdict} its 95% interval" in printed
        )


@pytest.mark.parametrize("name", ["first", "second", "maml"])
def test_a_comparison_has_the_figures_of_each_alone(checkpoints: dict[str, str], run: Run, name: str) -> None:
    single = run("--ckpt_path", checkpoints[name])
    others = [checkpoints[other] for other in ("second", "first") if other != name]
    for compared in (run("--compare", checkpoints[name], *others)[0], run("--compare", *others, checkpoints[name])[-1]):
        assert {figure: compared[figure] for figure in FIGURES} == {figure: single[figure] for figure in FIGURES}


def test_a_comparison_in_every_cell_of_a_grid(checkpoints: dict[str, str], run: Run) -> None:
    results = run("--compare", checkpoints["first"], checkpoints["second"], "--ways", "2", "4")
    assert [(result["label"], result["num_ways"]) for result in results] == [
        (label, ways) for ways in (2, 4) for label in ("ProtoNet 0", "ProtoNet 1")
    ]
    for first, second in (results[:2], results[2:]):
        difference = second["accuracy"] - first["accuracy"]
        assert second["difference"] == pytest.approx(difference, abs=1e-7)


def test_the_data_flags_choose_the_common_episodes(checkpoints: dict[str, str], run: Run) -> None:
    both = ["--compare", checkpoints["first"], checkpoints["second"]]
    first, second = (run(*both, "--data.seed", "7", "--data.num_shots", "2")[0], run(*both)[0])
    assert (first["episode_seed"], first["num_shots"]) == (7, 2)
    assert first["accuracy"] != second["accuracy"]


def test_regressions_are_compared_by_their_squared_errors(
    checkpoints: dict[str, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--compare", checkpoints["sinusoid"], checkpoints["other sinusoid"], "--shots", "5", "10", "--latex"]
    results = run(*both)
    assert [(result["label"], result["num_shots"]) for result in results] == [
        (label, shots) for shots in (5, 10) for label in ("MAML", "Reptile")
    ]
    assert results[1]["difference"] == pytest.approx(results[1]["mse"] - results[0]["mse"], rel=1e-6)
    printed = capsys.readouterr().out
    assert "5 points" in printed and "Reptile less MAML, 10 points: " in printed
    assert rf"MAML & 5 points & ${results[0]['mse']:.3f} \pm {results[0]['ci95']:.3f}$ & -- \\" in printed


@pytest.mark.parametrize("name", ["first", "maml", "sinusoid"])
def test_the_episodes_that_were_measured_are_counted(
    checkpoints: dict[str, str], run: Run, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a list of 20, in batches of 3."""
    assert run("--ckpt_path", checkpoints[name])["num_episodes"] == 20
    limited = run("--ckpt_path", checkpoints[name], "--trainer.limit_test_batches", "4")
    assert limited["num_episodes"] == 12
    assert "12 episodes of seed 0" in capsys.readouterr().out


def test_a_table_for_spreadsheets_has_a_row_each(checkpoints: dict[str, str], run: Run, tmp_path: Path) -> None:
    flags = ["--ckpt_path", checkpoints["first"], "--shots", "1", "2"]
    results = run(*flags)
    assert evaluate([*flags, "--output", str(tmp_path / "new" / "results.csv")]) == 0
    with (tmp_path / "new" / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row, result in zip(rows, results, strict=True):
        assert {name: float(row[name]) for name in FIGURES} == {name: result[name] for name in FIGURES}
        assert (row["num_shots"], row["checkpoint"]) == (str(result["num_shots"]), checkpoints["first"])


def test_one_row_of_latex(checkpoints: dict[str, str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    result = run("--ckpt_path", checkpoints["first"], "--latex")
    row = rf"ProtoNet & 3-way 1-shot & ${100 * result['accuracy']:.2f} \pm {100 * result['ci95']:.2f}$ \\"
    assert row in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("name", "other"), [("first", "second"), ("sinusoid", "other sinusoid")])
def test_one_episode_has_no_interval_anywhere(
    checkpoints: dict[str, str], run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, other: str
) -> None:
    flags = ["--compare", checkpoints[name], checkpoints[other], "--num_episodes", "1"]
    results = run(*flags, "--shots", "1", "2", "--report", str(tmp_path / "report"))
    assert [result["ci95"] for result in results] == [None] * 4
    assert results[1]["difference"] is not None and results[1]["difference_ci95"] is None
    printed = capsys.readouterr().out
    assert "±" not in printed and "95% interval" not in printed and " 1 episode of seed 0" in printed
    assert evaluate([*flags, "--output", str(tmp_path / "one.csv")]) == 0
    with (tmp_path / "one.csv").open(encoding="utf-8", newline="") as file:
        assert [row["ci95"] for row in csv.DictReader(file)] == ["", ""]


ONE = "--ckpt_path {first}"
MISTAKES = {
    "--compare {first}": "two or more different checkpoints",
    "--compare {first} {first}": "two or more different checkpoints",
    "--compare {first} nothing.ckpt": "there is no checkpoint nothing.ckpt",
    "--compare {first} {maml} --ckpt_path {first}": "pass either --ckpt_path",
    "": "pass either --ckpt_path",
    "--compare {first} {sinusoid}": "was trained on images of (1, 1, 1)",
    "--compare {sinusoid} {first}": "was trained on images of (1, 16, 16)",
    "--compare {first} {maml} --ways 3 5": "cannot take 5-way tasks: pass --ways 3",
    "--ckpt_path {maml} --ways 3 5": "cannot take 5-way tasks: pass --ways 3",
    "--ckpt_path {maml} --data.num_ways 5": "cannot take 5-way tasks: pass --data.num_ways 3",
    "--ckpt_path {sinusoid} --ways 5": "Sinusoid decides num_ways for itself: leave out --ways",
    f"{ONE} --ways 7": "needs at least 7",
    f"{ONE} --shots 1 7": "needs 7 shots + 2 queries",
    f"{ONE} --ways 0": "--ways must be at least 1, not 0",
    f"{ONE} --ways two": "--ways takes",
    f"{ONE} --ways 3 --data.num_ways 3": "leave out one of them",
    f"{ONE} --shots 1 2 --data.num_shots=1": "leave out one of them",
    f"{ONE} --num_inner_steps 2": "ProtoNet adapts to a task without steps",
    "--compare {first} {second} --num_inner_steps 2": "ProtoNet adapt to a task without steps",
    f"{ONE} --per_query true": "only Reptile passes each query in a batch of its own",
    f"{ONE} --output results.txt": "must end in one of .json, .csv",
    f"{ONE} --report {{first}}": "give --report another place",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_before_any_work(
    mistake: str,
    checkpoints: dict[str, str],
    cpu: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_late(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("the evaluation has started")

    monkeypatch.setattr("pytorch_lightning.Trainer.test", too_late)
    try:
        code: Any = evaluate([*mistake.format(**checkpoints).split(), *cpu])
    except SystemExit as stop:
        code = stop.code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1
    assert MISTAKES[mistake] in errors[0]


def test_a_comparison_needs_the_whole_list(
    checkpoints: dict[str, str], cpu: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--compare", checkpoints["first"], checkpoints["second"]]
    assert evaluate([*both, *cpu, "--trainer.limit_test_batches", "2"]) == 2
    assert "pass --num_episodes in place of" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_signal_of_a_jobs_near_end_stops_an_evaluation_and_saves_nothing(
    split: str,
    checkpoints: dict[str, str],
    cpu: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"JOB_ID": "1", "JOB_NAME": "evaluate", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(ProtoNet, f"{split.replace('val', 'validation')}_step", lambda *_: told(signal.SIGUSR1)())
    flags = ["--ckpt_path", checkpoints["first"], "--split", split, *cpu]
    assert evaluate(flags) == 128 + signal.SIGUSR1
    assert "SIGUSR1 stopped the evaluation: give the same command again" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_home_folder_is_meant_by_a_tilde(
    checkpoints: dict[str, str], cpu: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = ["--ckpt_path", checkpoints["first"], "--output=~/results/of.json", "--report=~/page"]
    assert evaluate([*flags, *cpu]) == 0
    assert (tmp_path / "results" / "of.json").is_file() and (tmp_path / "page" / "report.html").is_file()


def test_steps_are_of_those_that_take_them(checkpoints: dict[str, str], run: Run) -> None:
    flags = ["--num_inner_steps", "0"]
    compared = run("--compare", checkpoints["first"], checkpoints["maml"], *flags)
    assert compared[1]["accuracy"] == run("--ckpt_path", checkpoints["maml"], *flags)["accuracy"]
    assert compared[1]["model_parameters"]["num_inner_steps_test"] == 0


def test_queries_pass_each_by_itself_where_asked(checkpoints: dict[str, str], run: Run) -> None:
    together, alone = (
        run("--ckpt_path", checkpoints["reptile"], "--per_query", per_query) for per_query in ("false", "true")
    )
    assert together == {**run("--ckpt_path", checkpoints["reptile"]), "wall_time_s": together["wall_time_s"]}
    assert (together["norm"], alone["norm"]) == ("transductive", "transductive, per query")
    assert alone["model_parameters"]["per_query"] is True
    assert together["nll"] != alone["nll"]
