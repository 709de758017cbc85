"""Which settings of a resumed training differ, and which of them change what validation measures."""

import inspect
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageOps
from pytorch_lightning.callbacks import EarlyStopping
from random_images import a_store, write_image_folder
from tiny_trainings import give_a_perfect_score, last_checkpoint, state, trained

from fewshot_pl import algorithms, benchmarks
from fewshot_pl.algorithms import MAML
from fewshot_pl.benchmarks import Glyphs, MultiSource, Sinusoid
from fewshot_pl.checkpoints import amend_checkpoint, opened_checkpoint
from fewshot_pl.resuming import changed_settings as module
from fewshot_pl.resuming.changed_settings import ChangedSettings, changed_settings

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def changed(before, now):
    """The settings that differ between two trainings, each of a model and a benchmark."""
    (old_model, old_data), (model, data) = before, now
    held = {"hyper_parameters": dict(old_model.hparams), "datamodule_hyper_parameters": dict(old_data.hparams)}
    return changed_settings(held, model, data)


def test_all_names_are_those_of_arguments():
    classes = [getattr(part, name) for part in (algorithms, benchmarks) for name in part.__all__]
    kinds = {kind for one in classes if isinstance(one, type) for kind in one.__mro__}
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    assert known >= module._UNMEASURED | module._STARTS | module._SIZES | module._BOUNDS


SIZES = {"num_shots": 2, "num_queries": 3, "num_val_episodes": 4, "seed": 5}
OF_TRAINING = {"root": "b", "train_num_shots": 9, "batches_per_epoch": 7, "augment": False, "num_test_episodes": 8}
ROWS = {
    "the same": (MAML(), Glyphs(), []),
    "sizes": (MAML(), Glyphs(**SIZES), ["num_queries", "num_shots", "num_val_episodes", "seed"]),
    "unlabelled": (MAML(), Glyphs(num_unlabelled=2, unlabelled_tasks=0.5), ["num_unlabelled"]),
    "of training": (MAML(first_order=True, task_parallel="loop"), Glyphs(**OF_TRAINING), []),
    "steps": (MAML(num_inner_steps=5, inner_lr=0.1), Glyphs(), ["inner_lr", "num_inner_steps_test"]),
    "steps of training": (MAML(num_inner_steps=5, num_inner_steps_test=1), Glyphs(), []),
    "bounds that are not read": (MAML(), Glyphs(max_ways=20), []),
    "variable tasks": (MAML(), Glyphs(sampling="variable", max_ways=20), ["sampling"]),
}


@pytest.mark.parametrize(("model", "data", "names"), ROWS.values(), ids=ROWS)
def test_what_validation_measures_is_told_from_the_rest(model, data, names):
    measured = changed((MAML(), Glyphs()), (model, data)).measured
    assert [words.split()[0].split(".")[1] for words in measured] == names


def test_variable_tasks_have_no_given_sizes():
    before, now = (Glyphs(sampling="variable", num_shots=shots, max_ways=20) for shots in (1, 5))
    assert changed((MAML(), before), (MAML(), now)) == ChangedSettings([], [], [])
    now = Glyphs(sampling="variable", max_ways=10)
    assert changed((MAML(), before), (MAML(), now)).measured == ["--data.max_ways 10 instead of 20"]


def test_the_noise_of_curves_and_the_sources_of_a_mixture_are_measured_but_not_where_images_are():
    noisy = changed((MAML(), Sinusoid()), (MAML(), Sinusoid(noise=0.3)))
    assert noisy.measured == ["--data.noise 0.3 instead of 0.0"]
    one, other, moved = (
        MultiSource(sources=sources)
        for sources in (("Glyphs",), ["Glyphs", "Omniglot"], [{"Glyphs": {"root": "elsewhere"}}])
    )
    assert changed((MAML(), one), (MAML(), MultiSource(sources=["Glyphs"]))) == ChangedSettings([], [], [])
    assert len(changed((MAML(), one), (MAML(), other)).measured) == 1
    here = MultiSource(sources=[{"Glyphs": {"root": "here"}}])
    found = changed((MAML(), here), (MAML(), moved))
    assert not found.measured and len(found.unmeasured) == 1


def test_early_stopping_compares_no_figures_of_other_validations(images, tmp_path):
    def with_patience(num_shots, **resumed):
        stopping = EarlyStopping("val/accuracy", mode="max", min_delta=2, patience=2)  # nothing improves by that much
        trainer, _ = trained(
            images, tmp_path, callbacks=[stopping], max_epochs=6, data={"num_shots": num_shots}, **resumed
        )
        return trainer.global_step

    assert with_patience(1) == 12  # the first validation is the best, the next two are not
    assert with_patience(2, resume_from=last_checkpoint(tmp_path)) == 24
    assert state(tmp_path)["global_step"] == 24 and torch.isfinite(state(tmp_path)["best"])


def mixed(*checksums):
    """A mixture of sources whose validation images have these checksums; a source without one is not set up."""
    data = MultiSource(sources=["Glyphs"] * len(checksums))
    for source, checksum in zip(data.sources, checksums, strict=True):
        if checksum is not None:
            source.stores["val"] = replace(a_store([1]), checksum=checksum)
    return data


@pytest.mark.parametrize(
    ("before", "now", "measured"),
    [
        (mixed(1, 2), mixed(1, 2), []),
        (mixed(1, 2), mixed(1, 3), ["other validation images"]),
        (mixed(1, None), mixed(1, 3), []),
        (mixed(1, 2), mixed(1, None), []),
        (mixed(1).sources[0], mixed(2).sources[0], ["other validation images"]),
    ],
)
def test_other_validation_images_are_told_from_unknown_ones(before, now, measured):
    name = type(now).__name__
    held = {"data": name, name: before.state_dict(), "datamodule_hyper_parameters": dict(before.hparams)}
    assert changed_settings(held, MAML(), now) == ChangedSettings(measured, [], [])


@pytest.mark.parametrize(("split", "is_known"), [("val", True), ("train", True), ("val", False)])
def test_scores_of_other_images_are_forgotten(split, is_known, tmp_path, caplog):
    images, last = tmp_path / "images", last_checkpoint(tmp_path)
    write_image_folder(images, num_classes=3, num_images=3, size=16)
    trained(images, tmp_path)
    give_a_perfect_score(last)
    if not is_known:  # as in checkpoints of earlier versions
        classes = opened_checkpoint(last)["ImageFolder"]["train_classes"]
        amend_checkpoint(last, {"ImageFolder": {"train_classes": classes}})
    for file in (images / split).rglob("*.png"):
        ImageOps.mirror(Image.open(file)).save(file)
    trained(images, tmp_path, max_epochs=3, resume_from=last)
    is_anew = split == "val" and is_known
    assert (torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] > 8) is is_anew
    said = "Training goes on with other validation images: validation chooses the best checkpoint anew"
    assert (said in caplog.messages) is is_anew
