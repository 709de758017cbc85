"""Training and evaluation on tasks that differ in ways and shots, through the data module and the commands."""

import json

import numpy as np
import pytest
import torch
from quiet_trainer import on_device
from random_images import write_image_folder

from fewshot_pl.benchmarks import ImageFolder
from fewshot_pl.checkpoints import load_algorithm, opened_checkpoint
from fewshot_pl.cli import evaluate, train
from fewshot_pl.errors import InputError
from fewshot_pl.evaluation.command import grid

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
BOUNDS = {"sampling": "variable", "min_ways": 2, "max_ways": 5, "max_queries": 3}
SMALL = {"image_size": 16, "channels": 1, "num_val_episodes": 6, "num_test_episodes": 9, "batches_per_epoch": 3}
CPU = ["--trainer.accelerator=cpu"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    write_image_folder(folder, num_classes=6, num_images=9, size=16)
    return folder


@pytest.fixture
def made(root, tmp_path):
    def made(stage="test", **settings):
        data = ImageFolder(root=str(root), cache_dir=str(tmp_path), **{**BOUNDS, **SMALL, **settings})
        data.prepare_data()
        data.setup(stage)
        return data

    return made


@pytest.fixture
def flags(root, tmp_path):
    settings = {"root": root, "cache_dir": tmp_path, **BOUNDS, **SMALL}
    given = [f"--data.{name}={value}" for name, value in settings.items()]
    return ["--data=ImageFolder", *given, "--trainer.max_epochs=1", f"--runs={tmp_path / 'runs'}", *CPU]


def trained(flags, tmp_path, algorithm, *more):
    assert train([f"--model={algorithm}", *flags, *more]) == 0
    return next((tmp_path / "runs").rglob("best.ckpt"))


@pytest.mark.parametrize("algorithm", ["ProtoNet", "MatchingNet", "RelationNet"])
def test_what_takes_any_number_of_ways_trains_and_evaluates(algorithm, flags, tmp_path, capsys):
    best = trained(flags, tmp_path, algorithm)
    result = json.loads((best.parents[1] / "results.json").read_text())
    assert result["num_ways"] is None and result["num_shots"] is None and 0 < result["accuracy"] < 1
    assert "variable ways and shots" in capsys.readouterr().out
    assert evaluate([f"--ckpt_path={best}", f"--output={tmp_path / 'again.json'}", *CPU]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert all(again[name] == pytest.approx(result[name], abs=1e-6) for name in ("accuracy", "ci95", "nll", "ece"))
    fixed = [f"--ckpt_path={best}", "--data.sampling=fixed", "--data.num_queries=2", "--shots=2"]
    assert evaluate([*fixed, f"--output={tmp_path / 'fixed.json'}", *CPU]) == 0
    assert json.loads((tmp_path / "fixed.json").read_text())["num_shots"] == 2


def test_the_figure_is_the_mean_over_the_episodes_of_the_list(flags, tmp_path, made):
    best = trained(flags, tmp_path, "ProtoNet")
    result = json.loads((best.parents[1] / "results.json").read_text())
    model, data = load_algorithm(best), made()
    accuracies, sizes = [], set()
    for number in range(data.num_episodes["test"]):
        episode = data.fixed_episodes("test", number)
        with torch.no_grad():
            right = model(episode)[0].argmax(-1) == episode.query_y[0]
        accuracies.append(right.double().mean().item())
        sizes.add((episode.num_ways, *episode.support_y.shape))
    assert len(sizes) > 4
    assert result["accuracy"] == pytest.approx(np.mean(accuracies), abs=1e-6)
    assert opened_checkpoint(best)["datamodule_hyper_parameters"]["sampling"] == "variable"


@pytest.mark.parametrize("settings", [{"store": "host"}, {"store": "host", "num_workers": 2}, {"seed": 1}])
def test_the_place_of_the_images_and_the_workers_change_nothing_and_the_seed_does(made, settings):
    def episodes(data):
        return [data.on_after_batch_transfer(batch, 0) for batch in data.test_dataloader()]

    one, other = episodes(made(store="device")), episodes(made(**settings))
    assert [episode.num_tasks for episode in one] == [1] * 9
    equal = [
        all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(left[:4], right[:4], strict=True))
        for left, right in zip(one, other, strict=True)
    ]
    assert not any(equal) if "seed" in settings else all(equal)
    assert all(left.known_ways == int(left.support_y.max()) + 1 for left in one)


def test_features_are_those_of_the_images(made):
    data = made(num_test_episodes=40)
    data.embed_split("test", lambda images: images.flatten(1), torch.device("cpu"))
    for number, batch in zip(range(5), data.test_dataloader(), strict=False):
        features, images = data.on_after_batch_transfer(batch, 0), data.fixed_episodes("test", number)
        assert features.holds_features and torch.equal(features.support_y, images.support_y)
        assert torch.equal(features.support_x, images.support_x.flatten(2))
        assert torch.equal(features.query_x, images.query_x.flatten(2))


def test_ranks_take_episodes_of_their_own(made):
    data, seen = made(store="device"), []
    for rank in range(2):
        on_device(data, rank, of=2)
        seen += [episodes.first_episode for episodes in data.test_dataloader().sampler]
    assert data.seen_order("test") == seen and sorted(seen) == list(range(9))


@pytest.mark.parametrize("algorithm", ["MAML", "Reptile", "LSTMMetaLearner"])
def test_a_fixed_head_is_refused_in_one_sentence(algorithm, flags, capsys):
    assert train([f"--model={algorithm}", *flags]) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"{algorithm} has a head of 5 outputs and cannot take tasks that differ in ways" in error


def test_a_head_is_refused_in_evaluation_too(flags, tmp_path, capsys):
    fixed = ["--data.sampling=fixed", "--data.num_ways=3", "--data.num_queries=2", "--model.inner_lr=0.1"]
    best = trained(flags, tmp_path, "MAML", *fixed)
    assert evaluate([f"--ckpt_path={best}", "--data.sampling=variable", *CPU]) == 2
    assert "MAML has a head of 3 outputs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks_per_batch": 4}, "come one to a batch.*accumulate_grad_batches 4"),
        ({"num_unlabelled": 1}, "no unlabelled images.*sampling fixed"),
        ({"unlabelled_tasks": 0.5}, "no unlabelled images.*sampling fixed"),
        ({"min_ways": 7, "max_ways": 9}, "needs at least 7.*min_ways"),
    ],
)
def test_what_cannot_be_is_said_with_the_cure(made, settings, message):
    with pytest.raises(InputError, match=message):
        made("fit", **settings)


def test_a_grid_of_sizes_is_refused(made):
    with pytest.raises(InputError, match="leave out --ways and --shots, or pass"):
        grid(made(), [2, 3], [1])


def test_every_picture_is_drawn_and_a_report_shows_episodes_calibration_and_classes(flags, tmp_path):
    best, report = trained(flags, tmp_path, "ProtoNet", "--pictures=all"), tmp_path / "report"
    assert evaluate([f"--ckpt_path={best}", f"--report={report}", *CPU]) == 0
    page = (report / "report.html").read_text()
    assert "variable ways and shots" in page and "Hardest classes" in page
    assert {"1-calibration.png", "1-episodes.png"} <= {path.name for path in report.iterdir()}


def test_accumulated_gradients_are_those_of_several_tasks(flags, tmp_path):
    best = trained(flags, tmp_path, "ProtoNet", "--trainer.accumulate_grad_batches=3")
    assert opened_checkpoint(best)["global_step"] == 1  # of 3 batches
