"""The notebooks of examples/ run from top to bottom, and its sweep with two workers."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import optuna
import pytest
import torch
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient
from pytorch_lightning.callbacks import ModelCheckpoint
from random_images import write_image_folder
from torch.multiprocessing import start_processes

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The name of a kernel that is the Python of this test, whatever kernels a user has installed."""
    write_kernel_spec(tmp_path / "kernels" / "of-this-test")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return "of-this-test"


def executed(name, kernel):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    resources = {"metadata": {"path": str(EXAMPLES)}}
    return NotebookClient(notebook, timeout=120, kernel_name=kernel, resources=resources).execute()


def text_outputs(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.ipynb")))
def test_no_outputs_are_stored(name):
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    nbformat.validate(notebook)
    assert [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_own_images_are_told_apart_and_shown(kernel):
    notebook = executed("own_images.ipynb", kernel)
    told = text_outputs(notebook)
    assert float(re.search(r"([\d.]+) % right on classes that training never saw", told)[1]) > 80  # 50 by chance
    assert "['octagon' 'square' 'triangle']" in told
    pictures = [one for one in notebook.cells[-1].outputs if "image/png" in one.get("data", {})]
    assert len(pictures) == 1


# The sweep -------------------------------------------------------------------------------------------


def sweep():
    """The module examples/sweep_optuna.py."""
    spec = importlib.util.spec_from_file_location("sweep_optuna", EXAMPLES / "sweep_optuna.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def short(tmp_path):
    """The flags of a sweep whose trials take a moment."""
    write_image_folder(tmp_path / "images", num_classes=4, size=16)
    values = {
        "study": tmp_path / "sweep.db",
        "data": "ImageFolder",
        "data.root": tmp_path / "images",
        "data.cache_dir": tmp_path / "cache",
        "data.image_size": 16,
        "data.num_ways": 3,
        "data.num_queries": 2,
        "data.batches_per_epoch": 1,
        "data.num_val_episodes": 4,
        "data.num_test_episodes": 4,
        "pictures": "none",
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def worker(number, module, flags):
    torch.set_num_threads(1)  # threads do not survive a fork
    module.main([*flags, "--trials", str(number + 1)])


@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_two_workers_share_a_sweep(short, tmp_path):
    start_processes(worker, (sweep(), short), nprocs=2, start_method="fork")
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'sweep.db'}")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert len({trial.params["model.learning_rate"] for trial in study.trials}) == 3
    for trial in study.trials:
        (run,) = (tmp_path / "sweep" / str(trial.number) / "ImageFolder" / "ProtoNet").iterdir()
        best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
        assert best["hyper_parameters"]["learning_rate"] == trial.params["model.learning_rate"]
        key = next(
            key for key in best["callbacks"] if key.startswith(ModelCheckpoint.__name__) and "val/accuracy" in key
        )
        assert trial.value == float(best["callbacks"][key]["best_model_score"])


def test_a_trial_that_cannot_be_made_counts_as_failed(short, tmp_path):
    with pytest.raises(SystemExit) as stop:
        sweep().main([*short, "--data.num_ways", "99"])
    assert stop.value.code == 2
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'sweep.db'}")
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


def test_a_sweep_seeks_the_better_end_of_the_figure_that_flags_name(short, tmp_path):
    (tmp_path / "given.yaml").write_text("checkpoint:\n  monitor: val/nll\n")
    flags = [*short, "--trials", "1", "--config", str(tmp_path / "given.yaml")]
    assert sweep().main([*flags, "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=val/loss"]) == 0
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path / 'sweep.db'}")
    assert study.direction == optuna.study.StudyDirection.MINIMIZE
    assert 0.5 < study.best_value < 2  # of three ways, near log 3


def test_wrong_flags_end_a_sweep_before_it_has_a_study(short, tmp_path, capsys):
    assert sweep().main([*short, "--checkpoint.monitor", "val/own"]) == 2
    assert capsys.readouterr().err.startswith("error: whether more or less of val/own is better")
    assert not (tmp_path / "sweep.db").exists()


def test_without_optuna_a_sweep_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match="pip install optuna"):
        sweep()
