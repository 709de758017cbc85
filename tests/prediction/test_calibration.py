"""Calibration on a benchmark: which images count as known and as unknown, and what the checkpoint keeps."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from own_images import ALGORITHMS
from random_images import give_random_images, write_image_folder

from fewshot_pl import algorithms
from fewshot_pl.algorithms import ProtoNet
from fewshot_pl.benchmarks import CIFARFS, ImageFolder, MultiSource, Omniglot, Sinusoid
from fewshot_pl.checkpoints import opened_checkpoint
from fewshot_pl.data.episode_dataset import EpisodeRange, IndexBatch
from fewshot_pl.data.episode_sampler import EpisodeSampler, EpisodeSize
from fewshot_pl.data.mixture import drawn_sources
from fewshot_pl.prediction.calibration import (
    calibrate,
    calibrated_rejections,
    known_and_unknown,
    rejection_sentence,
)
from fewshot_pl.prediction.rejection import nearest_rejection, rejections_in
from fewshot_pl.prediction.trained_model import TrainedModel


@pytest.fixture
def module(tmp_path, monkeypatch):
    def made(kind=CIFARFS, num_classes=8, num_images=9, **arguments):
        give_random_images(monkeypatch, num_classes, num_images)
        sizes = {"num_ways": 3, "num_shots": 2, "num_queries": 4, "num_val_episodes": 5, "eval_tasks_per_batch": 2}
        data = kind(cache_dir=str(tmp_path / "cache"), **{**sizes, **arguments})
        data.setup("")
        return data

    return made


class Nearest(ProtoNet):
    """Compares the images themselves instead of features."""

    def encode(self, images):
        return images.flatten(1)


def nearest():
    return Nearest(image_shape=(3, 32, 32)).eval()


@pytest.mark.parametrize(("num_classes", "num_others"), [(8, 3), (4, 1)])
def test_known_images_are_queries_of_the_tasks_classes_and_unknown_ones_of_others(module, num_classes, num_others):
    """All pixels of an image are its class's number, so a query is at a prototype if and only if it is known."""
    data = module(num_classes=num_classes)
    store = data.stores["val"] = replace(data.stores["val"], images=np.array(data.stores["val"].images))  # in memory
    for number in range(store.num_classes):
        store.class_images(number)[:] = 10 * number
    known, unknown = known_and_unknown(nearest(), data, "val", num_shots=2)
    assert len(known["logit"]) == 5 * 3 * 4 and len(unknown["logit"]) == 5 * num_others * 4
    np.testing.assert_allclose(known["logit"], 0, atol=0.1)  # float32 rounds squares of 3,072 numbers
    assert (unknown["logit"] < -10).all()
    assert calibrated_rejections(nearest(), data, "val")[0].false_accept(0.05) == 0


@pytest.mark.parametrize("algorithm", ["MAML", "RelationNet", "Reptile, per query", "ProtoNet"])
def test_scores_are_those_that_a_prediction_of_a_whole_task_gives(module, algorithm):
    """For queries of 3 classes and of as many others, in one batch; transductive models see the support with them."""
    data, name = module(), algorithm.removesuffix(", per query")
    arguments = {"per_query": True} if name != algorithm else {}
    model = getattr(algorithms, name)(image_shape=(3, 32, 32), **ALGORITHMS[name], **arguments).eval()
    sampler = EpisodeSampler(data.stores["val"], EpisodeSize(6, 2, 4), data.seed)
    seen = [part["logit"].reshape(5, 12) for part in known_and_unknown(model, data, "val", num_shots=2)]
    for number in range(5):
        drawn = data.episode(IndexBatch("val", sampler(0, number, 1)))
        adapted = TrainedModel(model, data, []).adapted(drawn.support_x[0, :6], drawn.support_y[0, :6], 3)
        expected = adapted(drawn.query_x[0]).double().max(-1).values.split(12)
        for part, logits in zip(seen, expected, strict=True):
            np.testing.assert_allclose(part[number], logits, rtol=1e-4, atol=1e-4)


def test_batches_of_tasks_change_nothing(module):
    one, three = (known_and_unknown(nearest(), module(eval_tasks_per_batch=size), "val", 1) for size in (1, 3))
    for mine, theirs in zip(one, three, strict=True):
        for name in mine:
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-6, atol=0.1)


def test_there_is_a_calibration_for_1_shot_for_5_and_for_those_of_the_evaluation(module):
    rejections = calibrated_rejections(nearest(), module(), "val")
    assert [(one.num_ways, one.num_shots) for one in rejections] == [(3, 1), (3, 2), (3, 5)]


@pytest.mark.parametrize(("num_images", "num_shots"), [(5, [1, 2]), (6, [1, 2, 5])])
def test_shots_that_a_class_has_no_images_for_are_left_out(module, num_images, num_shots):
    rejections = calibrated_rejections(nearest(), module(num_images=num_images, num_queries=3), "val")
    assert [one.num_shots for one in rejections] == num_shots


def test_quarter_turns_count_as_classes_as_in_a_validation(module):
    data = module(Omniglot, num_classes=2)  # of which a task of 3 ways takes turns, and others are unknown
    model = Nearest(image_shape=data.image_shape).eval()
    known, unknown = known_and_unknown(model, data, "val", num_shots=2)
    assert len(known["logit"]) == len(unknown["logit"]) == 5 * 3 * 4


@pytest.mark.parametrize("own_classes", [8, 3])
def test_a_task_of_several_sources_is_of_the_one_that_validation_draws(module, own_classes, tmp_path):
    """Only sources with classes beyond a task's have tasks: with 3 classes there are none."""
    write_image_folder(tmp_path / "own", own_classes, num_images=9)
    own = {"root": str(tmp_path / "own"), "image_size": 32}
    data = module(MultiSource, sources=["CIFARFS", {"ImageFolder": own}])
    alone = [known_and_unknown(nearest(), one, "val", 2) for one in (module(), module(ImageFolder, **own))]
    drawn = list(enumerate(drawn_sources(0, EpisodeRange(0, 0, 5), np.ones(2) / 2)))
    assert {source for _, source in drawn} == {0, 1} and (alone[1] is None) == (own_classes == 3)
    for part, seen in enumerate(known_and_unknown(nearest(), data, "val", 2)):
        expected = [alone[one][part]["logit"].reshape(5, 12)[number] for number, one in drawn if alone[one] is not None]
        np.testing.assert_allclose(np.sort(seen["logit"]), np.sort(np.concatenate(expected)), rtol=1e-6, atol=0.1)


def test_tasks_that_differ_in_size_are_calibrated_for_as_many_shots(module):
    fixed, variable = (
        calibrated_rejections(nearest(), module(eval_tasks_per_batch=1, **more), "val")
        for more in ({}, {"sampling": "variable", "min_ways": 2})
    )
    assert variable == fixed and len(fixed) == 3


@pytest.mark.parametrize("benchmark", ["no other classes", "no images"])
def test_what_cannot_be_calibrated_is_not(module, benchmark, tmp_path):
    data = module(num_classes=3) if benchmark == "no other classes" else Sinusoid()
    assert calibrate(nearest(), data, tmp_path / "none.ckpt") is None


def test_a_checkpoint_keeps_its_contents_and_the_calibration(module, checkpoint):
    path = checkpoint()
    before = opened_checkpoint(path)
    rates = calibrate(nearest(), data := module(), path)
    after = opened_checkpoint(path)
    assert rejections_in(after) == calibrated_rejections(nearest(), data, "val")
    assert before.keys() | {"rejections"} == after.keys()
    for name, value in before["state_dict"].items():
        assert torch.equal(value, after["state_dict"][name])
    assert [file.name for file in path.parent.glob("*.ckpt*")] == [path.name]
    rejection = nearest_rejection(rejections_in(after), 2)
    known, unknown = (part[rejection.score] for part in known_and_unknown(nearest(), data, "test", 2))
    below = [np.mean([score < rejection.threshold(0.05) for score in part]) for part in (known, unknown)]
    auroc = np.mean([(np.sign(score - other) + 1) / 2 for score in known for other in unknown])
    expected = {"num_ways": 3, "num_shots": 2, "false_reject": below[0], "false_accept": 1 - below[1], "auroc": auroc}
    assert rates == pytest.approx(expected, abs=1e-12) and below[0] != 1 - below[1]
    assert rejection_sentence({**rates, "false_accept": 0.25, "false_reject": 0.0625}) == (
        "Unknown images, in 3-way 2-shot tasks of test classes: 25.0 % of the images of other classes are taken for "
        "one of the task's, 6.2 % of those of the task's classes are called unknown"
    )


def test_a_model_that_comes_from_training_is_calibrated_as_it_will_be_used(module, checkpoint):
    path, data = checkpoint(), module()
    model = ProtoNet(image_shape=(3, 32, 32))
    with torch.no_grad():
        model.encode(torch.rand(20, 3, 32, 32))  # leaves running statistics, as training does
    statistics = copy.deepcopy(dict(model.named_buffers()))
    assert model.training
    calibrate(model, data, path)
    assert rejections_in(opened_checkpoint(path)) == calibrated_rejections(model.eval(), data, "val")
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, statistics[name]), name
