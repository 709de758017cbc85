"""A learner trained on one benchmark, evaluated on another through ``evaluate.py``."""

import json
from pathlib import Path

import pytest
from random_images import write_image_folder
from tiny_archives import cut_splits, write_cub, write_dtd, write_tiered

from fewshot_pl.benchmarks import CUB, DTD
from fewshot_pl.cli import evaluate, train

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*no figure will be comparable"),
]
SMALL = ["--data.num_ways=2", "--data.num_queries=1", "--data.num_val_episodes=2", "--data.num_test_episodes=4"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A folder with tiny copies of three benchmarks, in which to run commands."""
    cut = cut_splits(monkeypatch)
    for write, benchmark in ((write_cub, CUB), (write_dtd, DTD)):
        write(tmp_path / "images", cut)
        monkeypatch.setattr(benchmark, "remotes", ())
    write_tiered(tmp_path / "images", cut)
    monkeypatch.setenv("FEWSHOT_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "images"


def trained(*flags):
    """The best checkpoint of a training of two steps."""
    short = ["--data.batches_per_epoch=2", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert train([*flags, *SMALL, *short, "--runs=runs"]) == 0
    return next(Path("runs").rglob("best.ckpt"))


@pytest.mark.parametrize("algorithm", ["ProtoNet", "MAML"])
@pytest.mark.parametrize("trained_on", ["TieredImageNet", "ImageFolder"])
def test_other_images_of_the_same_shape_are_evaluated(trained_on, algorithm, root):
    own = root if trained_on == "TieredImageNet" else root / "own"
    if trained_on == "ImageFolder":
        write_image_folder(own)
    best = trained(f"--data={trained_on}", f"--data.root={own}", "--data.image_size=16", f"--model={algorithm}")
    for other, more in (("CUB", ["--data.bounding_box=true"]), ("CUB", []), ("DTD", [])):
        flags = [f"--ckpt_path={best}", f"--data={other}", f"--data.root={root}", *SMALL, *more]
        assert evaluate([*flags, "--output=result.json", "--trainer.accelerator=cpu"]) == 0
        result = json.loads((root.parent / "result.json").read_text())
        assert result["data"] == other and result["num_episodes"] == 4 and result["num_ways"] == 2
        assert result["data_parameters"].get("bounding_box", bool(more)) == bool(more)


def test_images_are_normalised_as_in_training(root):
    best = trained("--data=TieredImageNet", f"--data.root={root}", "--data.image_size=16", "--data.normalise=false")
    flags = [f"--ckpt_path={best}", "--data=CUB", *SMALL, "--output=result.json", "--trainer.accelerator=cpu"]
    assert evaluate(flags) == 0
    assert json.loads((root.parent / "result.json").read_text())["data_parameters"]["normalise"] is False


def test_images_of_another_shape_are_refused_with_the_cure(root, capsys):
    best = trained("--data=TieredImageNet", f"--data.root={root}", "--data.image_size=16")
    assert evaluate([f"--ckpt_path={best}", "--data=CUB", f"--data.root={root}", "--data.image_size=20", *SMALL]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "trained on images of (3, 16, 16)" in errors[0] and "CUB gives (3, 20, 20)" in errors[0]
    assert "--data.image_size 16" in errors[0]
