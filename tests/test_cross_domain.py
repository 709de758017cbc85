"""A learner trained on one benchmark, evaluated on another through ``evaluate.py``."""

import json
from pathlib import Path

import pytest
from random_images import give_random_images, write_image_folder
from tiny_archives import cut_splits, write_cub, write_dtd, write_tiered

from fewshot_pl.benchmarks import CUB, DTD, ImageFolder, MiniImageNet, MultiSource
from fewshot_pl.cli import evaluate, train
from fewshot_pl.evaluation.contestants import contestants
from fewshot_pl.evaluation.flags import request
from fewshot_pl.evaluation.preparation import normalised_as
from fewshot_pl.prediction.trained_model import trained_model

pytestmark = [
    pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore:.*no figure will be comparable"),
]
SMALL = ["--data.num_ways=2", "--data.num_queries=1", "--data.num_val_episodes=2", "--data.num_test_episodes=4"]
SHORT = ["--data.batches_per_epoch=2", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]


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
    assert train([*flags, *SMALL, *SHORT, "--runs=runs"]) == 0
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


@pytest.mark.parametrize("more", [[], ["--data.normalise=false"]], ids=["normalised", "as they are"])
def test_own_images_reach_the_network_as_in_predict(more, root):
    best = trained("--data=TieredImageNet", f"--data.root={root}", "--data.image_size=16", *more)
    seen = seen_images(best, ["--data=ImageFolder", f"--data.root={root / 'own'}", *SMALL], root)
    assert seen <= predicted_images(best, root)


def test_own_ink_reaches_the_network_as_in_predict(root, monkeypatch):
    give_random_images(monkeypatch)
    best = trained("--data=Omniglot", f"--data.root={root}")
    flags = ["--data=ImageFolder", f"--data.root={root / 'own'}", *SMALL]
    assert seen_images(best, flags, root) <= predicted_images(best, root)
    assert not seen_images(best, [*flags, "--data.light_on_dark=false"], root) & predicted_images(best, root)


def seen_images(checkpoint, flags, root):
    """The images of test episodes, as bytes, that ``evaluate.py`` gives the network: photographs, here not square."""
    if not (root / "own").exists():
        write_image_folder(root / "own", size=18, width=24)
    config, parser, checkpoints = request([f"--ckpt_path={checkpoint}", *flags])
    data = parser.instantiate(config).data
    data.prepare_data()
    data.setup("test")
    with normalised_as(contestants(checkpoints)[0].trained, data):
        return {
            image.numpy().tobytes() for number in range(4) for image in data.fixed_episodes("test", number).query_x[0]
        }


def predicted_images(checkpoint, root):
    """The same images, as a predictor prepares them."""
    files = sorted((root / "own" / "test").glob("*/*"))
    return {image.numpy().tobytes() for image in trained_model(checkpoint).pixels(files)}


def test_another_benchmark_is_normalised_by_the_trainings_mean_and_deviation():
    trained_on, plain = MiniImageNet(image_size=16), MiniImageNet(image_size=16, normalise=False)
    folder, data = ImageFolder(image_size=16), DTD(image_size=16)
    as_mini, as_dtd = (MiniImageNet.mean, MiniImageNet.std), (DTD.mean, DTD.std)
    for sources, expected in (
        ([trained_on], as_mini),
        ([plain], (plain.mean, plain.std)),
        ([trained_on, DTD(image_size=16)], as_dtd),  # as in the training
        ([MiniImageNet(image_size=84)], as_dtd),  # which the model cannot take
        ([], as_dtd),
    ):
        with normalised_as(sources, data):
            assert (data.mean, data.std) == expected
        assert (data.mean, data.std) == as_dtd
    with normalised_as([trained_on, ImageFolder(image_size=16)], folder):  # which is also made as the first
        assert (folder.mean, folder.std) == as_mini
    several = MultiSource(sources=[{"DTD": {"image_size": 16}}, {"MiniImageNet": {"image_size": 16}}])
    with normalised_as([plain], several):
        assert [source.mean for source in several.sources] == [plain.mean, plain.mean]
    assert [source.mean for source in several.sources] == [DTD.mean, MiniImageNet.mean]


def test_in_a_comparison_each_normalises_as_alone(root):
    flags = ["--data.image_size=16", "--model.norm=running"]
    first = trained("--data=TieredImageNet", f"--data.root={root}", *flags)
    own = root / "own"
    write_image_folder(own)
    assert train(["--data=ImageFolder", f"--data.root={own}", *flags, *SMALL, *SHORT, "--runs=others"]) == 0
    paths = [str(first), str(next(Path("others").rglob("best.ckpt")))]
    plain = ["--data=TieredImageNet", f"--data.root={root}", "--data.normalise=false"]
    assert train([*plain, *flags, *SMALL, *SHORT, "--runs=plain"]) == 0
    paths.append(str(next(Path("plain").rglob("best.ckpt"))))
    on = ["--data=CUB", f"--data.root={root}", *SMALL, "--trainer.accelerator=cpu"]
    assert evaluate(["--compare", *paths, *on, "--output=both.json"]) == 0
    for path, result in zip(paths, json.loads(Path("both.json").read_text()), strict=True):
        assert evaluate([f"--ckpt_path={path}", *on, "--output=one.json"]) == 0
        assert result["nll"] == json.loads(Path("one.json").read_text())["nll"]
    same = ["--data.normalise=true", "--output=same.json"]
    assert evaluate(["--compare", *paths, *on, *same]) == 0
    assert json.loads(Path("same.json").read_text())[2]["nll"] != result["nll"]
