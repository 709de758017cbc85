"""Every YAML in configs/ works, alone or composed, through the parser and the training of ``train.py``."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml
from paper_settings import CONFIGURATIONS, DEFAULTS
from random_images import ONE_SMALL_BATCH, give_random_images

from fewshot_pl import algorithms
from fewshot_pl.algorithms.gradient import GradientAlgorithm
from fewshot_pl.backbones.normalization import episodic_norms
from fewshot_pl.cli import TrainCLI, train
from fewshot_pl.registries import concrete_classes
from fewshot_pl.resuming.best_checkpoint import BestCheckpoint

ROOT = Path(__file__).parents[1]


def content(path):
    return yaml.safe_load(path.read_text("utf-8"))


def content_class(path):
    return content(path)["model"]["class_path"]


def adapts_with_batch_norm(path):
    arguments, algorithm = content(path)["model"]["init_args"], getattr(algorithms, content_class(path))
    adapts = issubclass(algorithm, GradientAlgorithm) or arguments.get("classifier") == "maml"
    return adapts and arguments["norm"] != "none"


ALGORITHMS, DATA, PAPER = (sorted((ROOT / "configs" / kind).glob("*.yaml")) for kind in ("algorithm", "data", "paper"))
NAMES = concrete_classes(algorithms)
REGRESSION = [path for path in DATA if path.stem == "sinusoid"]
# Benchmarks that differ from miniImageNet only in their images take turns with the algorithms; others run with all.
LIKE_MINI_IMAGENET = {"cub", "dtd", "fgvc_aircraft", "fungi", "tiered_imagenet", "vgg_flowers"}
MEET_ALL = [path for path in DATA if path not in REGRESSION and path.stem not in LIKE_MINI_IMAGENET]
TAKE_TURNS = [path for path in DATA if path.stem in LIKE_MINI_IMAGENET]
METAGAN_ON_MAML = [path for path in PAPER if content(path)["model"]["init_args"].get("classifier") == "maml"]
CLIP_VALUES = [path for path in PAPER if content(path)["trainer"].get("gradient_clip_algorithm") == "value"]
PAIRS = [*itertools.product(ALGORITHMS, MEET_ALL), *zip(itertools.cycle(ALGORITHMS), TAKE_TURNS)]
REGRESSORS = [path for path in ALGORITHMS if getattr(algorithms, content_class(path)).regresses]
MLP = ["--model.backbone=mlp-40-40", "--model.norm=none"]  # what regression needs with any algorithm
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*LightningCLI's args parameter"),
    pytest.mark.filterwarnings("ignore:(?s).*Jsonargparse"),
    pytest.mark.filterwarnings("ignore:(?s).*instantiate_classes"),
]


def stem(path):
    return path.stem


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that makes what ``train.py`` makes of a command line, without training."""
    monkeypatch.chdir(ROOT)  # commands name configs relative to it

    def made(*args):
        with torch.device("meta"):  # millions of weights that nobody reads take a second to draw
            return TrainCLI([*args, f"--runs={tmp_path}", "--trainer.logger=false", "--trainer.accelerator=cpu"])

    return made


def header_of(path):
    """The comment at the start of a file: its first line as ``title``, then what follows each ``Word:``."""
    lines = path.read_text("utf-8").splitlines()
    title, *fields = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    parts = (line.removeprefix("# ").partition(":") for line in fields)
    return {"title": title, **{word: text.strip() for word, _, text in parts}}


def test_every_algorithm_has_a_config():
    assert {content(path)["model"]["class_path"] for path in ALGORITHMS} == set(NAMES)


def test_every_file_in_configs_is_tested_here():
    assert sorted(path for path in (ROOT / "configs").rglob("*") if path.is_file()) == sorted(ALGORITHMS + DATA + PAPER)


@pytest.mark.parametrize(("algorithm", "data"), PAIRS, ids=stem)
def test_algorithm_and_data_compose_in_either_order(algorithm, data, made):
    cli = made(f"--config={algorithm}", f"--config={data}")
    for path in (algorithm, data):
        for key, section in content(path).items():
            chosen = cli.model if key == "model" else cli.datamodule
            assert section.get("class_path", type(chosen).__name__) == type(chosen).__name__
            assert section["init_args"].items() <= dict(chosen.hparams).items()
    assert tuple(cli.model.hparams["image_shape"]) == cli.datamodule.image_shape
    assert cli.model.hparams.get("pixel_range", cli.datamodule.pixel_range) == cli.datamodule.pixel_range
    other_way_round = made(f"--config={data}", f"--config={algorithm}").config
    assert (other_way_round.model, other_way_round.data) == (cli.config.model, cli.config.data)


@pytest.mark.parametrize("data", REGRESSION, ids=stem)
@pytest.mark.parametrize("algorithm", REGRESSORS, ids=stem)
def test_regression_composes_with_what_regresses(algorithm, data, made):
    cli = made(f"--config={algorithm}", f"--config={data}", *MLP)
    assert cli.model.hparams["num_ways"] == 1
    assert cli.trainer.checkpoint_callbacks and cli.config.checkpoint.monitor == "val/mse"
    other_way_round = made(f"--config={data}", f"--config={algorithm}", *MLP).config
    assert (other_way_round.model, other_way_round.data) == (cli.config.model, cli.config.data)


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_named_by_a_flag_has_its_own_defaults(name, made):
    cli = made(f"--model={name}")
    linked = {key: cli.model.hparams[key] for key in ("image_shape", "num_ways") if key in cli.model.hparams}
    assert dict(cli.model.hparams) == {**getattr(algorithms, name)().hparams, **linked}


def settings_of(cli):
    """What a command trains with, under the names of ``paper_settings``."""
    model, data, trainer = cli.model, cli.datamodule, cli.trainer
    settings = {**data.hparams, **model.hparams, "gradient_clip_val": trainer.gradient_clip_val}
    for column, count in (("ways", "num_ways"), ("shots", "num_shots"), ("queries", "num_queries")):
        settings[column] = getattr(data.train_size, count), getattr(data.eval_size, count)
    if "num_inner_steps" in model.hparams:
        settings["inner_steps"] = model.num_inner_steps, model.num_inner_steps_test
    return settings | {
        "steps": trainer.max_epochs * data.batches_per_epoch // trainer.accumulate_grad_batches,
        "tasks": data.tasks_per_batch,
        "rate": model.learning_rate,
        "halved": model.lr_halve_every,
        "tests": data.num_episodes["test"],
    }


def test_settings_of_every_reproduction_and_algorithm_are_told():
    assert sorted(CONFIGURATIONS) == sorted(map(stem, PAPER))
    assert DEFAULTS.keys() == set(NAMES)


@pytest.mark.parametrize("path", PAPER, ids=stem)
def test_a_reproduction_has_the_papers_settings(path, made):
    expected, settings = CONFIGURATIONS[path.stem], settings_of(made(f"--config={path}"))
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize("name", NAMES)
def test_an_algorithm_has_the_papers_settings_by_default(name):
    with torch.device("meta"):
        settings = getattr(algorithms, name)().hparams
    expected = DEFAULTS[name]
    assert {setting: settings[setting] for setting in expected} == expected


@pytest.mark.parametrize("path", PAPER, ids=stem)
def test_a_reproduction_says_what_it_reproduces(path, made):
    header = header_of(path)
    assert {"Command", "Published", "Measured"} <= header.keys()
    assert any(character.isdigit() for character in header["Published"])
    python, script, *args = header["Command"].split()
    assert (python, script, args) == ("python", "train.py", ["--config", path.relative_to(ROOT).as_posix()])
    data = made(*args).datamodule
    kind = "regression" if data.monitor == "val/mse" else f"{data.eval_size.num_ways}-way"
    assert f"{data.eval_size.num_shots}-shot" in header["title"]
    assert kind in header["title"] + header["Published"]


def test_reproductions_of_maml_and_of_what_is_made_of_it_clip_values():
    assert {content_class(path) for path in CLIP_VALUES} == {"ANIL", "MAML", "MetaGAN", "MetaSGD", "PLATIPUS"}


@pytest.mark.parametrize("path", CLIP_VALUES, ids=stem)
def test_gradients_are_clipped_on_the_scale_of_mamls_code(path, made):
    """MAML's code sums the outer loss over query images and divides by the number of shots, where ours is the mean."""
    cli = made(f"--config={path}")
    assert cli.trainer.gradient_clip_algorithm == "value"
    size = cli.datamodule.train_size
    factor = size.num_ways * size.num_queries / size.num_shots
    assert cli.trainer.gradient_clip_val * factor == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("path", [path for path in ALGORITHMS + PAPER if "relation_net" in path.stem], ids=stem)
def test_relation_networks_are_clipped_as_in_their_code(path, made):
    model = made(f"--config={path}", *(["--data=Glyphs"] if path in ALGORITHMS else [])).model
    assert model.max_gradient_norm == 0.5 and len(model.clipped_networks()) == 2


@pytest.mark.parametrize("path", [path for path in ALGORITHMS + PAPER if adapts_with_batch_norm(path)], ids=stem)
def test_batch_norm_adds_to_the_variance_what_the_papers_code_adds(path, made):
    model = made(f"--config={path}", *(["--data=Glyphs"] if path in ALGORITHMS else [])).model
    expected = 1e-5 if content_class(path) == "BOIL" else 1e-3  # torch's, or TensorFlow's, and Ravi's
    assert {layer.eps for layer in episodic_norms(model)} == {expected}


@pytest.mark.parametrize("path", METAGAN_ON_MAML, ids=stem)
def test_metagan_differs_in_its_game_alone_from_the_maml_to_compare_with(path, made):
    base, *flags = header_of(path)["Base"].partition(",")[0].split()
    for section in ("trainer", "data"):
        assert content(path)[section] == content(path.with_stem(base))[section]
    ours = made(f"--config={path}").model.hparams
    theirs = made(f"--config={path.with_stem(base)}", *flags).model.hparams
    shared = theirs.keys() & ours.keys()
    assert {name: ours[name] for name in shared} == {name: theirs[name] for name in shared}


@pytest.mark.parametrize("path", PAPER, ids=stem)
def test_a_reproduction_states_every_setting_that_decides_its_figure(path):
    config = content(path)
    assert config.keys() - {"checkpoint"} == {"seed_everything", "trainer", "model", "data"}
    assert config["trainer"].keys() >= {"max_epochs"}
    assert config["model"]["init_args"].keys() >= {"backbone", "norm", "learning_rate", "lr_halve_every"}
    sizes = {"num_shots", "num_queries", "tasks_per_batch", "batches_per_epoch"}
    sizes |= {"lines", "noise"} if config["data"]["class_path"] == "Sinusoid" else {"num_ways"}
    assert config["data"]["init_args"].keys() >= {*sizes, "num_val_episodes", "num_test_episodes"}


@pytest.mark.parametrize("path", [path for path in PAPER if content_class(path) == "ProtoNet"], ids=stem)
def test_prototypical_networks_stop_and_choose_by_validation_loss(path, made):
    trainer = made(f"--config={path}").trainer
    assert trainer.max_epochs == 1000
    (stopping,) = trainer.early_stopping_callbacks
    assert (stopping.monitor, stopping.mode, stopping.patience) == ("val/nll", "min", 200)
    (choosing,) = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, BestCheckpoint)]
    assert (choosing.monitor, choosing.mode) == ("val/nll", "min")


@pytest.mark.parametrize("path", PAPER, ids=stem)
def test_a_reproduction_trains_validates_and_tests(path, monkeypatch, tmp_path, tmp_path_factory, capsys):
    give_random_images(monkeypatch, num_classes=30)  # miniImageNet, 1-shot, is trained 30-way
    places = [f"--runs={tmp_path}", "--trainer.accelerator=cpu"]
    if content(path)["data"]["class_path"] != "Sinusoid":
        cache = tmp_path_factory.getbasetemp() / "images of reproductions"  # packed once
        places.append(f"--data.cache_dir={cache}")
    if "num_inner_steps_test" in content(path)["model"]["init_args"]:
        places.append("--model.num_inner_steps_test=2")  # Reptile's 50 are seconds on 84x84
    if "train_num_ways" in content(path)["data"]["init_args"]:
        places.append("--data.train_num_ways=5")  # 60 classes of 84x84 are seconds too
    if content_class(path) == "MetaGAN":
        places.append("--model.generator_width=4")
    assert train([f"--config={path}", *places, *ONE_SMALL_BATCH]) == 0
    printed = capsys.readouterr().out
    assert "test split" in printed and "1 episode of seed" in printed  # which has no interval
