"""train.py and evaluate.py through their real entry points, on a folder of small random images."""

import errno
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_trainings import assert_same, give_a_perfect_score

from fewshot_pl.cli import evaluate, predict, train
from fewshot_pl.errors import InputError
from fewshot_pl.flags import chosen_class

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")

NUM_CLASSES = 6
IMAGES_PER_CLASS = 4


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/{train,val,test}/<class>/*.png: each class is a noisy version of a random picture of its own."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(NUM_CLASSES):
            folder = root / split / f"{split}{number}"
            folder.mkdir(parents=True)
            pattern = random.integers(0, 120, (16, 16))
            for index in range(IMAGES_PER_CLASS):
                noisy = pattern + random.integers(0, 135, (16, 16))
                Image.fromarray(noisy.astype(np.uint8)).save(folder / f"{index}.png")
    return root


@pytest.fixture
def flags(images: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> list[str]:
    """The flags of a training that takes a second or two."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    values = {
        "data": "ImageFolder",
        "data.root": images,
        "data.cache_dir": cache,
        "data.image_size": 16,
        "data.channels": 1,
        "data.num_ways": 3,
        "data.num_queries": 2,
        "data.batches_per_epoch": 3,
        "data.num_val_episodes": 6,
        "data.num_test_episodes": 20,
        "trainer.max_epochs": 2,
        "trainer.accelerator": "cpu",
        "trainer.log_every_n_steps": 1,
        "runs": tmp_path / "runs",
    }
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def run_folder(flags: list[str], model: str = "ProtoNet", number: int = 0) -> Path:
    return Path(flags[flags.index("--runs") + 1]) / "ImageFolder" / model / str(number)


def results(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return loaded


def evaluated(checkpoint: Path, output: Path, *more: str) -> dict[str, Any]:
    assert evaluate(["--ckpt_path", str(checkpoint), "--output", str(output), *more]) == 0
    loaded: dict[str, Any] = json.loads(output.read_text())
    return loaded


def test_a_run_leaves_everything_in_its_folder(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train(flags) == 0
    folder = run_folder(flags)
    assert {"config.yaml", "checkpoints", "results.json"} <= {path.name for path in folder.iterdir()}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    result = results(folder)
    assert result["num_episodes"] == 20 and result["norm"] == "running" and result["versions"]["torch"]
    assert result["training_seed"] == 0 and result["episode_seed"] == 0
    assert result["accuracy"] > 1 / 3 and result["ci95"] > 0 and result["wall_time_s"] > 0
    printed = capsys.readouterr().out
    assert "3-way 1-shot" in printed and f"{100 * result['accuracy']:.2f} %" in printed


def test_tensorboard_shows_scalars_pictures_and_hyper_parameters(flags: list[str]) -> None:
    assert train(flags) == 0
    folder = run_folder(flags)
    tags: dict[str, set[str]] = {"scalars": set(), "images": set()}
    plugins = set()
    for file in folder.glob("events.*"):
        events = EventAccumulator(str(file)).Reload()
        for kind in tags:
            tags[kind] |= set(events.Tags()[kind])
        plugins |= set(events.summary_metadata)
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/ci95", "test/accuracy"} <= tags["scalars"]
    assert "val/episode" in tags["images"]
    assert any(name.startswith("_hparams_") for name in plugins)


def test_every_tensorboard_has_each_test_figure_once_at_the_step_of_the_test(flags: list[str], tmp_path: Path) -> None:
    loggers = ["--trainer.logger=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path / 'one'}"]
    loggers += ["--trainer.logger+=TensorBoardLogger", f"--trainer.logger.save_dir={tmp_path / 'two'}"]
    loggers += ["--trainer.logger.prefix=mine"]
    assert train([*flags, *loggers]) == 0
    assert train([*flags, *loggers, "--trainer.max_epochs=3", "--ckpt_path=last"]) == 0
    for place, prefix in (("one", ""), ("two", "mine-")):
        steps = []
        noted = 0
        for file in sorted((tmp_path / place).rglob("events.*")):
            events = EventAccumulator(str(file)).Reload()
            settings = events.summary_metadata.get("_hparams_/experiment")
            noted += settings is not None and f"{prefix}test/accuracy".encode() in settings.plugin_data.content
            if f"{prefix}test/accuracy" in events.Tags()["scalars"]:
                steps += [event.step for event in events.Scalars(f"{prefix}test/accuracy")]
        assert (steps, noted) == ([6, 9], 2), place


def test_one_episode_chooses_the_checkpoint_and_is_tested_without_an_interval(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*flags, "--data.num_val_episodes=1", "--data.num_test_episodes=1", "--trainer.max_epochs=2"]) == 0
    folder = run_folder(flags)
    assert results(folder)["ci95"] is None and "NaN" not in (folder / "results.json").read_text()
    assert (folder / "checkpoints" / "best.ckpt").is_file()
    told = capsys.readouterr()
    assert "± " not in told.out and "1 episode of seed 0" in told.out and "NaN" not in told.err
    scalars = [EventAccumulator(str(file)).Reload().Tags()["scalars"] for file in folder.glob("events.*")]
    assert {"val/accuracy", "test/accuracy"} <= {name for names in scalars for name in names}


def test_all_pictures_are_there_when_asked_for_and_none_when_not_wanted(flags: list[str]) -> None:
    shown: list[set[str]] = []
    for number, words in enumerate((["all"], ["none"], ["confusion", "calibration"])):
        assert train([*flags, "--model", "MAML", "--pictures", *words]) == 0
        events = [EventAccumulator(str(file)).Reload() for file in run_folder(flags, "MAML", number).glob("events.*")]
        shown.append({tag for event in events for tag in event.Tags()["images"]})
    both = {"val/confusion", "val/calibration"}
    assert shown == [{"val/episode", "val/adaptation_curve", *both}, set(), both]
    assert list(run_folder(flags, "MAML").glob("*/test_embedding/sprite.png"))


def test_a_run_is_repeated_by_its_config(flags: list[str]) -> None:
    assert train(flags) == 0
    assert train(["--config", str(run_folder(flags) / "config.yaml")]) == 0
    first, second = results(run_folder(flags)), results(run_folder(flags, number=1))
    assert first["accuracy"] == second["accuracy"] and first["loss"] == second["loss"]
    assert first["config"] == second["config"] == yaml.safe_load((run_folder(flags) / "config.yaml").read_text())
    assert first["command"].endswith(flags[-1]) and first["num_devices"] == 1
    weights = [torch.load(run_folder(flags, number=n) / "checkpoints/last.ckpt", weights_only=True) for n in (0, 1)]
    for name, value in weights[0]["state_dict"].items():
        assert torch.equal(value, weights[1]["state_dict"][name]), name


def test_evaluation_needs_only_the_checkpoint_and_gives_the_same_again(flags: list[str], tmp_path: Path) -> None:
    assert train(flags) == 0
    best = run_folder(flags) / "checkpoints" / "best.ckpt"
    first = evaluated(best, tmp_path / "first.json")
    again = evaluated(best, tmp_path / "again.json", "--data.eval_tasks_per_batch", "3")
    trained = results(run_folder(flags))
    for name in ("accuracy", "ci95", "num_episodes", "num_ways", "norm"):
        assert first[name] == again[name] == trained[name], name
    other = evaluated(best, tmp_path / "other.json", "--data.num_ways", "5", "--num_episodes", "30")
    assert (other["num_ways"], other["num_episodes"]) == (5, 30)
    assert evaluated(best, tmp_path / "val.json", "--split", "val")["split"] == "val"


def test_resuming_goes_on_in_the_same_folder(flags: list[str]) -> None:
    assert train(flags) == 0
    assert train([*flags, "--trainer.max_epochs", "4", "--ckpt_path", "last"]) == 0
    folder = run_folder(flags)
    assert not run_folder(flags, number=1).exists()
    last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 3 and last["global_step"] == 12


FINDERS = {
    "learning rate": (
        [
            "LearningRateFinder",
            "--trainer.callbacks.num_training_steps=15",
            "--trainer.callbacks.early_stop_threshold=1e9",
            "--data.batches_per_epoch=8",
        ],
        "learning_rate",
    ),
    "batch size": (
        ["BatchSizeFinder", "--trainer.callbacks.batch_arg_name=tasks_per_batch", "--trainer.callbacks.max_trials=1"],
        "tasks_per_batch",
    ),
}


@pytest.mark.parametrize(("finder", "setting"), FINDERS.values(), ids=FINDERS)
def test_what_a_callback_found_when_training_began_holds_when_it_is_resumed(
    finder: list[str],
    setting: str,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)  # where Lightning leaves a checkpoint for a while
    words = [*flags, "--trainer.callbacks", *finder]
    for number, more in enumerate((["--trainer.max_epochs=3"], [], ["--trainer.max_epochs=3", "--ckpt_path=last"])):
        assert train([*words, *more]) == 0
        assert sum(f"Finder is left out: training goes on with the {setting}" in it for it in caplog.messages) == (
            number == 2
        )
    assert not any("without effect" in line or "goes on with lr" in line for line in caplog.messages)
    whole, resumed = (
        torch.load(run_folder(flags, number=n) / "checkpoints/last.ckpt", weights_only=True) for n in (0, 1)
    )
    for name in ("global_step", "epoch", "hyper_parameters", "datamodule_hyper_parameters"):
        assert whole[name] == resumed[name], name
    assert_same(whole["state_dict"], resumed["state_dict"])
    assert_same(whole["optimizer_states"], resumed["optimizer_states"])
    found = {**results(run_folder(flags, number=1))["model_parameters"], **whole["datamodule_hyper_parameters"]}[
        setting
    ]
    assert found != {"learning_rate": 0.001, "tasks_per_batch": 1}[setting]


LOGGERS = {"none": ["false"], "another": ["CSVLogger", "--trainer.logger.save_dir=csv"]}


@pytest.mark.parametrize("words", LOGGERS.values(), ids=LOGGERS)
def test_the_run_folder_is_the_same_with_any_logger(
    words: list[str], flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train([*flags, "--trainer.logger", *words]) == 0
    folder = run_folder(flags)
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "checkpoints", "results.json"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert results(folder)["config"]["trainer"]["logger"] is not None
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", "csv"}
    assert train([*flags, "--trainer.logger", *words, "--trainer.max_epochs", "3", "--ckpt_path", "last"]) == 0
    assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 2


def test_a_training_may_be_left_without_a_test(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert train([*flags, "--trainer.limit_test_batches", "0"]) == 0
    assert {path.name for path in (run_folder(flags) / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert not (run_folder(flags) / "results.json").exists()
    assert f"Saved in {run_folder(flags)}" in capsys.readouterr().out


WITHOUT = {  # split folders that a training can do without
    "test": (["test"], {"best.ckpt", "last.ckpt"}),
    "validation and test": (["val", "test"], {"last.ckpt"}),
}


@pytest.mark.parametrize(("missing", "saved"), WITHOUT.values(), ids=WITHOUT)
def test_a_training_may_be_without_classes_to_measure_it_on(
    missing: list[str], saved: set[str], flags: list[str], images: Path, tmp_path: Path
) -> None:
    for split in {"train", "val", "test"} - {*missing}:
        (tmp_path / "classes").mkdir(exist_ok=True)
        (tmp_path / "classes" / split).symlink_to(images / split)
    own = [*flags, "--data.root", str(tmp_path / "classes"), "--data.split_ratio", "[1,0,0]", "--pictures", "all"]
    limits = [word for split in missing for word in (f"--trainer.limit_{split}_batches", "0")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert train([*own, *limits]) == 0
    assert not [warning for warning in caught if "could not find the monitored key" in str(warning.message)]
    checkpoints = run_folder(flags) / "checkpoints"
    assert {path.name for path in checkpoints.iterdir()} == saved
    support = ["--support", str(images / "test"), "--query", str(images / "test" / "test0")]
    assert predict(["--ckpt_path", str(checkpoints / "last.ckpt"), *support, "--output", str(tmp_path / "labels")]) == 0


@pytest.mark.parametrize("split", ["val", "test"])
def test_classes_that_a_training_lacks_are_named_with_what_leaves_them_out(
    split: str, flags: list[str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in {"train", "val", "test"} - {split}:
        (tmp_path / given).symlink_to(images / given)
    assert train([*flags, "--data.root", str(tmp_path), "--data.split_ratio", "[1,0,0]"]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert sentence.endswith(f"; to train without {split} classes, pass --trainer.limit_{split}_batches 0")
    assert not (tmp_path / "runs").exists()


def test_a_fast_development_run_leaves_everything_as_it_was(flags: list[str], tmp_path: Path) -> None:
    def left() -> dict[Path, bytes | None]:
        found = sorted((tmp_path / "runs").rglob("*"))
        return {path: path.read_bytes() if path.is_file() else None for path in found}

    trial = [*flags, "--trainer.fast_dev_run", "true", "--pictures", "all"]
    assert train(trial) == 0
    assert left() == {}
    assert train([*flags, "--trainer.max_epochs", "1"]) == 0
    before = left()
    assert before
    for checkpoint in ("last", str(run_folder(flags) / "checkpoints/best.ckpt")):
        assert train([*trial, "--ckpt_path", checkpoint]) == 0
        assert left() == before


def test_the_home_folder_is_meant_by_a_tilde(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert train([*flags, "--runs=~/mine"]) == 0
    folder = tmp_path / "mine" / "ImageFolder" / "ProtoNet" / "0"
    assert {"config.yaml", "checkpoints", "results.json"} <= {path.name for path in folder.iterdir()}
    assert list(folder.glob("events.*")) and not (tmp_path / "~").exists()


def test_a_config_file_is_found_by_a_tilde(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what looks for the class it names too: MAML's own defaults are taken."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "maml.yaml").write_text("model: MAML\n")
    assert chosen_class("model", ["--config=~/maml.yaml"], "ProtoNet") == "MAML"
    assert chosen_class("model", ["--config=~nobody_of_this_name/maml.yaml"], "ProtoNet") == "ProtoNet"


def test_what_does_not_make_the_weights_may_change_when_training_is_resumed(flags: list[str]) -> None:
    assert train(flags) == 0
    changed = {"model.learning_rate": 0.01, "data.num_shots": 2, "data.num_ways": 2, "data.num_workers": 1}
    changed |= {"data.store": "host", "trainer.max_epochs": 3, "seed_everything": 1}
    words = [word for name, value in changed.items() for word in (f"--{name}", str(value))]
    assert train([*flags, *words, "--ckpt_path", "last"]) == 0
    assert results(run_folder(flags))["num_shots"] == 2


OTHER_SETTINGS = {
    "none": ((), [], False),
    "of validation": (
        ("--data.num_shots=2", "--data.seed=3"),
        [
            "Training goes on with --data.num_shots 2 instead of 1, --data.seed 3 instead of 0: validation chooses the "
            "best checkpoint anew"
        ],
        True,
    ),
    "of training": (
        ("--data.tasks_per_batch=2", "--model.learning_rate=0.1", "--model.lr_halve_every=0"),
        [
            "Training goes on with --data.tasks_per_batch 2 instead of 1, --model.lr_halve_every 0 instead of 2000",
            "--model.learning_rate 0.1: without effect, as weights and optimizer go on from those in {last}",
        ],
        False,
    ),
    "of the choice": (
        ("--checkpoint.monitor=val/loss",),
        [
            "Training goes on with other --checkpoint settings than it began with: validation chooses the best "
            "checkpoint anew"
        ],
        True,
    ),
}


@pytest.mark.parametrize(("words", "said", "is_anew"), OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_a_resumed_training_says_which_settings_differ_and_compares_no_figures_of_other_validations(
    words: tuple[str, ...], said: list[str], is_anew: bool, flags: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert train(flags) == 0
    last, best = (run_folder(flags) / "checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    chosen = torch.load(best, weights_only=True)["global_step"]
    give_a_perfect_score(last)
    caplog.clear()
    assert train([*flags, *words, "--trainer.max_epochs", "4", "--ckpt_path", "last"]) == 0
    assert (torch.load(best, weights_only=True)["global_step"] > 6) is is_anew
    assert is_anew or torch.load(best, weights_only=True)["global_step"] == chosen
    assert Path(results(run_folder(flags))["checkpoint"]) == best
    told = [line for line in caplog.messages if "raining goes on" in line or "without effect" in line]
    assert told == [line.format(last=last) for line in said]


class Interruption(pl.Callback):
    """Stops training in the second epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            raise RuntimeError("the callback broke")


def test_a_run_that_crashed_can_be_resumed(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("fewshot_pl.training.cli.EpisodeRate", Interruption)
        with pytest.raises(RuntimeError):
            train(flags)
    last = torch.load(run_folder(flags) / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4
    assert train([*flags, "--ckpt_path", "last"]) == 0
    assert results(run_folder(flags))["accuracy"] > 1 / 3


def test_the_best_checkpoint_is_the_one_validation_chose(flags: list[str]) -> None:
    assert train([*flags, "--trainer.max_epochs", "4"]) == 0
    best = torch.load(run_folder(flags) / "checkpoints" / "best.ckpt", weights_only=True)
    scores: dict[int, float] = {}
    for file in run_folder(flags).glob("events.*"):
        events = EventAccumulator(str(file)).Reload()
        if "val/accuracy" in events.Tags()["scalars"]:
            scores |= {event.step: event.value for event in events.Scalars("val/accuracy")}
    assert len(scores) == 4
    # Lightning logs a validation at the last step before it.
    assert scores[best["global_step"] - 1] == max(scores.values())


UNVALIDATED = {
    "steps": ["--trainer.max_steps=2"],
    "epochs": ["--trainer.check_val_every_n_epoch=9"],
    "no episodes": ["--trainer.limit_val_batches=0"],
    "checkpoints": ["--checkpoint.every_n_epochs=9"],
}


@pytest.mark.parametrize("words", UNVALIDATED.values(), ids=UNVALIDATED)
def test_a_training_whose_validation_chose_nothing_says_so(
    words: list[str], flags: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> int:
        return sum("No validation chose a checkpoint: the last weights are tested" in line for line in caplog.messages)

    assert train([*flags, *words]) == 0
    assert said() == 1 and results(run_folder(flags))["checkpoint"] is None
    assert train([*flags, "--trainer.max_epochs=1", "--checkpoint.save_top_k=0"]) == 0  # as was asked for
    assert train([*flags, "--trainer.fast_dev_run=true", *words]) == 0
    assert said() == 1


def test_a_training_that_has_reached_its_end_is_tested_again(
    flags: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert train(flags) == 0
    before = results(run_folder(flags))
    for words in ([], ["--trainer.max_steps=0"], ["--data.num_test_episodes=20"], ["--data.num_val_episodes=5"]):
        assert train([*flags, *words, "--ckpt_path=last"]) == 0
        after = results(run_folder(flags))
        assert [after[name] for name in ("accuracy", "checkpoint")] == [
            before[name] for name in ("accuracy", "checkpoint")
        ]
    assert not any("No validation" in line for line in caplog.messages)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("num_epochs", [2, 3])  # with 2, training had reached its end
def test_a_training_whose_best_checkpoint_is_missing_chooses_anew(
    num_epochs: int, flags: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert train(flags) == 0
    best = run_folder(flags) / "checkpoints" / "best.ckpt"
    give_a_perfect_score(best.with_name("last.ckpt"))  # no validation is as good as that of the missing weights
    best.unlink()
    with pytest.warns(UserWarning, match=r"best\.ckpt, is missing: validation chooses the best one anew"):
        assert train([*flags, f"--trainer.max_epochs={num_epochs}", "--ckpt_path=last"]) == 0
    assert results(run_folder(flags))["checkpoint"] == (None if num_epochs == 2 else str(best))
    assert sum("the last weights are tested" in line for line in caplog.messages) == (num_epochs == 2)


@pytest.mark.parametrize("name", ["best", "mine", "mine-{epoch:02d}", "mine-{step}"])
def test_several_best_checkpoints_are_kept_and_the_best_is_tested_whatever_a_user_keeps_beside_them(
    name: str, flags: list[str]
) -> None:
    more = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.monitor=train/loss"]
    more += [f"--checkpoint.filename={name}", "--trainer.val_check_interval=1"]  # several validations in an epoch
    assert train([*flags, *more, "--checkpoint.save_top_k", "2", "--trainer.max_epochs", "3"]) == 0
    kept = list((run_folder(flags) / "checkpoints").glob(f"{name[:4]}*step=*.ckpt"))
    tested = Path(results(run_folder(flags))["checkpoint"])
    assert len(kept) == 2
    assert tested in kept
    states = torch.load(tested, weights_only=True)["callbacks"].values()
    assert any(state.get("best_model_path") == str(tested) for state in states)


def test_the_weights_that_are_tested_are_those_of_the_best_checkpoint_where_a_callback_averages_them(
    flags: list[str], tmp_path: Path
) -> None:
    averaging = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
    assert train([*flags, *averaging, "--optimizer=SGD", "--optimizer.lr=0.1"]) == 0
    result = results(run_folder(flags))
    best = run_folder(flags) / "checkpoints" / "best.ckpt"
    again = evaluated(best, tmp_path / "again.json")
    for figure in ("accuracy", "ci95", "nll", "ece", "brier", "loss"):
        assert result[figure] == again[figure], figure


class BrokenImage(pl.Callback):
    """Puts a nan into the second batch, so that its step and the running statistics are not finite."""

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            batch.support_x[0, 0, 0, 0, 0] = torch.nan


def test_a_skipped_step_stays_out_of_the_average_of_weights_and_statistics(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewshot_pl.training.cli.EpisodeRate", BrokenImage)
    averaging = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
    assert train([*flags, *averaging, "--nonfinite=skip"]) == 0
    averages = torch.load(run_folder(flags) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in averages.values())


def test_maml_trains_and_says_why_it_cannot_take_other_ways(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train([*flags, "--model", "MAML", "--model.inner_lr", "0.2", "--data.tasks_per_batch", "2"]) == 0
    folder = run_folder(flags, "MAML")
    result = results(folder)
    assert result["norm"] == "transductive" and result["model_parameters"]["num_ways"] == 3
    assert evaluate(["--ckpt_path", str(folder / "checkpoints/best.ckpt"), "--data.num_ways", "4"]) == 2
    assert "cannot take 4-way tasks" in capsys.readouterr().err


@pytest.mark.parametrize("allowed", [True, False])
def test_tensor_float_32_is_a_flag(flags: list[str], allowed: bool) -> None:
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        assert train([*flags, "--trainer.fast_dev_run=1", f"--tf32={str(allowed).lower()}"]) == 0
        assert [switch.allow_tf32 for switch in switches] == [allowed, allowed]
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def test_lightnings_optimiser_flags_replace_the_default(
    flags: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "complete.yaml").write_text("model:\n  init_args:\n    learning_rate: 0.3\n")
    more = ["--config", str(tmp_path / "complete.yaml")]
    more += [
        "--optimizer",
        "SGD",
        "--optimizer.lr",
        "0.05",
        "--lr_scheduler",
        "StepLR",
        "--lr_scheduler.step_size",
        "1",
    ]
    assert train([*flags, *more]) == 0
    last = torch.load(run_folder(flags) / "checkpoints" / "last.ckpt", weights_only=True)
    assert "momentum_buffer" in last["optimizer_states"][0]["state"].get(0, {"momentum_buffer": None})
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0.05 * 0.1**2)
    said = (
        "--optimizer SGD replaces the optimizer of ProtoNet: --model.learning_rate, --model.lr_halve_every do nothing"
    )
    assert said in caplog.messages
    result = results(run_folder(flags))
    assert result["optimizer"]["class_path"] == "torch.optim.SGD" and result["optimizer"]["init_args"]["lr"] == 0.05
    assert result["lr_scheduler"]["init_args"]["step_size"] == 1 and result["model_parameters"]["norm"] == "running"
    assert not {"learning_rate", "lr_halve_every"} & result["model_parameters"].keys()


@pytest.mark.parametrize("model", ["ProtoNet", "MAML"])  # of features, of images
def test_double_precision_is_a_flag(flags: list[str], model: str) -> None:
    assert train([*flags, f"--model={model}", "--trainer.precision=64-true"]) == 0
    last = torch.load(run_folder(flags, model) / "checkpoints" / "last.ckpt", weights_only=True)
    assert {value.dtype for value in last["state_dict"].values() if value.is_floating_point()} == {torch.float64}


@pytest.mark.parametrize("words", [["val/own"], ["val/loss", "--trainer.limit_val_batches", "0"]], ids=["name", "none"])
def test_early_stopping_without_its_figure_is_one_sentence(
    flags: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", *words]
    assert train([*flags, "--trainer.max_epochs", "1", *more]) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"`{words[0]}` which is not available" in sentence and "`train/loss`" in sentence


def test_a_checkpoint_written_beside_training_is_resumed(flags: list[str]) -> None:
    beside = [*flags, "--trainer.plugins", "AsyncCheckpointIO"]
    assert train(beside) == 0
    assert train([*beside, "--trainer.max_epochs", "3", "--ckpt_path", "last"]) == 0
    assert torch.load(run_folder(flags) / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 9


def test_a_full_disk_is_said_in_one_sentence(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_space(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")

    monkeypatch.setattr("fewshot_pl.training.command.save_result", no_space)
    assert train(flags) == 2
    assert "no space left on disk to write last.ckpt" in capsys.readouterr().err


def test_a_result_is_saved_before_it_is_calibrated_when_to_call_an_image_unknown(
    flags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise InputError("no memory")

    monkeypatch.setattr("fewshot_pl.training.command.calibrate", fails)
    assert train(flags) == 2
    assert 0 <= results(run_folder(flags))["accuracy"] <= 1
