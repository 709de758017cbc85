"""Training that is stopped and resumed ends with the weights of one that never stopped, bit for bit."""

import random
import signal
import warnings
from pathlib import Path

import pytest
import torch
from own_images import ALGORITHMS
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LambdaCallback,
    StochasticWeightAveraging,
    WeightAveraging,
)
from tiny_trainings import At, assert_same, last_checkpoint, state, told, trained

from fewshot_pl.algorithms import ProtoNet
from fewshot_pl.errors import Stopped
from fewshot_pl.resuming import BestCheckpoint
from fewshot_pl.resuming.best_checkpoint import _within

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec"),
    pytest.mark.filterwarnings("ignore:.*overridden `on_before_batch_transfer`"),
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:.*The dirpath has changed"),
    pytest.mark.filterwarnings("error:.*dataloader is not resumable"),
]


def fails():
    raise RuntimeError("the callback broke")


STOPS = {
    "SIGTERM in mid-epoch": (told(signal.SIGTERM), "on_train_batch_start", 2, 2),
    "SIGTERM before a validation": (told(signal.SIGTERM), "on_train_batch_start", 4, 4),
    "SIGTERM in a validation": (told(signal.SIGTERM), "on_validation_batch_start", 4, 4),
    "Ctrl-C in a step": (told(signal.SIGINT), "on_before_optimizer_step", 6, 6),
    "exception after a step": (fails, "on_train_batch_end", 3, 3),
    "exception in a validation": (fails, "on_validation_batch_end", 8, 8),
    "exception in a step": (fails, "on_before_optimizer_step", 7, 4),
    "exception after a validation": (fails, "on_validation_end", 8, 4),
}


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    """The folders of trainings that never stop, made once for each setting."""
    folders = {}

    def folder(**settings):
        key = str(sorted(settings.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("uninterrupted")
            trained(images, folders[key], **settings)
        return folders[key]

    return folder


def stopped_and_resumed(images, folder, stop, **settings):
    action, hook, num_batches, num_kept = stop
    with pytest.raises((Stopped, RuntimeError)):
        trained(images, folder, callbacks=[At(hook, num_batches, action)], **settings)
    assert state(folder)["global_step"] == num_kept
    trained(images, folder, resume_from=last_checkpoint(folder), **settings)


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS.keys())
def test_wherever_training_stops_it_goes_on_exactly(stop, images, tmp_path, uninterrupted):
    stopped_and_resumed(images, tmp_path, stop)
    assert_same(state(tmp_path), state(uninterrupted()))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_goes_on_exactly_and_repeats_itself(algorithm, images, tmp_path, uninterrupted):
    settings = {"algorithm": algorithm, "max_epochs": 1, "data": {"batches_per_epoch": 2, "num_val_episodes": 2}}
    stopped_and_resumed(images, tmp_path, (told(signal.SIGTERM), "on_train_batch_start", 1, 1), **settings)
    assert_same(state(tmp_path), state(uninterrupted(**settings)))


def test_pythons_random_numbers_too_are_a_function_of_the_step(images, tmp_path):
    """As a user's augmentation may draw them."""
    drawn = []
    for seed in (1, 2):
        random.seed(seed)
        drawn.append(numbers := [])
        drawing = LambdaCallback(on_train_batch_start=lambda *_, numbers=numbers: numbers.append(random.random()))
        trained(images, tmp_path / str(seed), callbacks=[drawing], max_epochs=1)
        assert torch.initial_seed() == 0  # as before, for the next training
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 4


SETTINGS = {
    "validation in mid-epoch": ({"val_check_interval": 2}, 2, 2),
    "validation in mid-epoch, next to it": ({"val_check_interval": 2}, 3, 3),
    "workers": ({"data": {"num_workers": 2, "store": "host"}}, 6, 6),
    "accumulation": ({"accumulate_grad_batches": 2, "algorithm": "Reptile", "max_epochs": 1}, 1, 1),
    "validation in mid-accumulation": (
        {"accumulate_grad_batches": 3, "val_check_interval": 1, "data": {"batches_per_epoch": 5}},
        2,
        1,
    ),
    "counting steps": ({"max_steps": 10, "max_epochs": -1}, 5, 5),
    "counting steps, at an epoch's end": ({"max_steps": 10, "max_epochs": -1}, 8, 8),
    "counting steps, unvalidated": ({"max_steps": 6, "max_epochs": -1, "limit_val_batches": 0}, 4, 5),
    "unvalidated": ({"limit_val_batches": 0}, 4, 4),
    "validation of every other epoch": ({"check_val_every_n_epoch": 2}, 4, 4),
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS.keys())
def test_it_goes_on_exactly_under_any_setting(setting, images, tmp_path, uninterrupted):
    settings, num_batches, num_kept = setting
    stopped_and_resumed(
        images, tmp_path, (told(signal.SIGTERM), "on_train_batch_start", num_batches, num_kept), **settings
    )
    assert_same(state(tmp_path), state(uninterrupted(**settings)))


@pytest.mark.parametrize(
    ("num_batches", "hook"), [(4, "on_validation_start"), (4, "on_train_epoch_end"), (6, "on_train_batch_end")]
)
def test_a_schedule_that_watches_a_figure_goes_on_exactly(num_batches, hook, images, tmp_path, monkeypatch):
    def watching(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/accuracy"}}

    monkeypatch.setattr(ProtoNet, "configure_optimizers", watching)
    trained(images, tmp_path / "whole")
    stopped_and_resumed(images, tmp_path / "stopped", (told(signal.SIGTERM), hook, num_batches, num_batches))
    assert_same(state(tmp_path / "stopped"), state(tmp_path / "whole"))


@pytest.mark.filterwarnings("ignore:.*SWA is currently only supported every epoch")
@pytest.mark.filterwarnings("ignore:StochasticWeightAveraging averages weights alone")
@pytest.mark.parametrize(
    ("hook", "num_batches"),
    [("on_train_batch_start", 6), ("on_train_batch_start", 9), ("on_validation_batch_start", 8)],
)
@pytest.mark.parametrize(
    "changing",
    [
        lambda: GradientAccumulationScheduler({0: 1, 1: 2, 2: 4}),
        lambda: StochasticWeightAveraging(0.01, swa_epoch_start=2, annealing_epochs=2),
        WeightAveraging,
        lambda: EMAWeightAveraging(decay=0.5),
    ],
    ids=["accumulation", "stochastic averages", "averages", "moving averages"],
)
def test_what_callbacks_change_from_epoch_to_epoch_goes_on_exactly(changing, hook, num_batches, images, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    _, expected = trained(images, whole, callbacks=[changing()], max_epochs=4)
    with pytest.raises(Stopped):
        stop = At(hook, num_batches, told(signal.SIGTERM))
        trained(images, stopped, callbacks=[changing(), stop], max_epochs=4)
    _, found = trained(images, stopped, resume_from=last_checkpoint(stopped), callbacks=[changing()], max_epochs=4)
    assert_same(state(stopped), state(whole))
    assert_same(dict(found.state_dict()), dict(expected.state_dict()))  # averages replace the weights at the end


@pytest.mark.parametrize(
    ("num_batches", "hook"), [(3, "on_train_batch_start"), (6, "on_train_batch_end"), (8, "on_train_epoch_end")]
)
def test_a_backbone_that_is_unfrozen_goes_on_exactly_at_its_own_rate(num_batches, hook, images, tmp_path):
    def settings():
        return {
            "algorithm": "RelationNet",
            "callbacks": [BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_ratio_lr=0.25)],
            "max_epochs": 3,
        }

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    trained(images, whole, **settings())
    first = settings()
    first["callbacks"].append(At(hook, num_batches, told(signal.SIGTERM)))
    with pytest.raises(Stopped):
        trained(images, stopped, **first)
    trained(images, stopped, resume_from=last_checkpoint(stopped), **settings())
    assert_same(state(stopped), state(whole))
    head, backbone = state(whole)["optimizer_states"][0]["param_groups"]
    assert head["params"] and backbone["params"]
    assert backbone["lr"] == pytest.approx(head["lr"] / 2)  # which doubles in every epoch


@pytest.mark.parametrize(("norm", "num_warned"), [("running", 1), ("group", 0)])
def test_averages_of_weights_alone_do_not_fit_running_statistics(norm, num_warned, images, tmp_path):
    with warnings.catch_warnings(record=True) as warned:
        trained(images, tmp_path, callbacks=[StochasticWeightAveraging(0.01)], max_epochs=1, model={"norm": norm})
    assert sum("averages weights alone" in str(one.message) for one in warned) == num_warned


@pytest.mark.parametrize(("settings", "num_steps"), [({}, 12), ({"val_check_interval": 2}, 6)])
def test_training_that_was_to_end_early_ends_there_too(settings, num_steps, images, tmp_path):
    def with_patience(**resumed):
        stopping = EarlyStopping("val/accuracy", mode="max", min_delta=2, patience=2)  # nothing improves by that much
        trainer, _ = trained(images, tmp_path, callbacks=[stopping], max_epochs=4, **settings, **resumed)
        assert trainer.global_step == num_steps
        return state(tmp_path)

    whole = with_patience()  # its last checkpoint is from after the validation that decided
    again = with_patience(resume_from=last_checkpoint(tmp_path))
    for part in ("state_dict", "optimizer_states", "global_step"):
        assert_same(again[part], whole[part])


@pytest.mark.parametrize("place", ["another folder", "another spelling"])
def test_the_best_checkpoint_stays_the_best_wherever_it_is_resumed(place, images, tmp_path, uninterrupted, monkeypatch):
    settings = {"model": {"learning_rate": 0.0, "norm": "group"}}  # no validation is better than the first
    folder = tmp_path / "stopped"
    with pytest.raises(Stopped):
        trained(images, folder, callbacks=[At("on_train_batch_start", 6, told(signal.SIGTERM))], **settings)
    if place == "another folder":
        folder = folder.rename(tmp_path / "moved")
    else:
        monkeypatch.chdir(tmp_path)
        folder = Path("stopped")
    trained(images, folder, resume_from=last_checkpoint(folder), **settings)
    assert_same(state(folder), state(uninterrupted(**settings)))
    assert torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 4


def test_a_name_of_the_best_checkpoint_may_hold_folders(tmp_path):
    before = BestCheckpoint(dirpath=tmp_path / "before", monitor="val/accuracy")
    best, elsewhere = (str(tmp_path / path) for path in ("before/best-val/accuracy=0.5.ckpt", "elsewhere/best.ckpt"))
    before.best_model_path, before.last_model_path = best, elsewhere
    before.best_k_models = {best: torch.tensor(0.5)}
    now = _within(str(tmp_path / "now"), before.state_dict())
    moved = str(tmp_path / "now/best-val/accuracy=0.5.ckpt")
    assert now["best_model_path"] == moved and list(now["best_k_models"]) == [moved]
    assert now["last_model_path"] == elsewhere
