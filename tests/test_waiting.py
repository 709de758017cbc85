"""No step and no batch waits for a GPU, and no operation mixes devices: tested on a device without values."""

import pytest
import torch
import valueless
from kinds_of_steps import KINDS, build
from own_images import ALGORITHMS
from random_images import give_random_images

from fewshot_pl import algorithms
from fewshot_pl.benchmarks import Glyphs, MultiSource, Sinusoid
from fewshot_pl.callbacks import EpisodeRate, FiniteLoss
from fewshot_pl.callbacks.progress import EpisodeLines

pytestmark = [
    pytest.mark.xdist_group("waiting"),  # images are packed once
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
]
SIZES = {"num_ways": 3, "num_queries": 2, "tasks_per_batch": 2, "eval_tasks_per_batch": 2}
HALVED = {"tasks_per_batch": 3, "eval_tasks_per_batch": 3}  # one whole chunk of tasks, and a partial one
NUM_STEPS = 3
CURVES = {"num_ways": 1, "backbone": "mlp-40-40", "norm": "none"}


@pytest.fixture(scope="module", autouse=True)
def random_images():
    """Replace glyphs, which take long to draw; steps do not depend on the images."""
    with pytest.MonkeyPatch.context() as patch:
        give_random_images(patch)
        yield


def vectorised(kind, data):
    return build(kind, data.image_shape, task_parallel="vmap")


def glyphs(packed, **settings):
    return Glyphs(cache_dir=packed, **{**SIZES, **settings})


def glyphs_for(kind, packed):
    return glyphs(packed, **(HALVED if kind == "MAML-halved" else {}))


def train(model, data, monkeypatch, **arguments):
    """Train with the callbacks of every training; FiniteLoss checks at the first step, and then not for a while."""
    asked = []
    monkeypatch.setattr(FiniteLoss, "_check", lambda self, trainer, pl_module: asked.append(trainer.global_step))
    callbacks = [EpisodeRate(), EpisodeLines(), FiniteLoss()]
    valueless.run("fit", model, data, NUM_STEPS, monkeypatch, callbacks, limit_val_batches=0, **arguments)
    assert asked == [0]


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_training_step_waits(kind, task_parallel, packed, monkeypatch):
    data = glyphs_for(kind, packed)
    train(build(kind, data.image_shape, task_parallel=task_parallel), data, monkeypatch, gradient_clip_val=0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_batch_of_an_evaluation_waits(kind, packed, monkeypatch):
    data = glyphs_for(kind, packed)
    valueless.run("test", vectorised(kind, data), data, 2, monkeypatch, enable_progress_bar=False)


def test_no_batch_of_an_evaluation_on_features_waits(packed, monkeypatch):
    data = glyphs(packed, num_test_episodes=10_000)
    model = vectorised("ProtoNet-running", data)
    valueless.run("test", model, data, 2, monkeypatch, enable_progress_bar=False)
    assert data._features


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if getattr(algorithms, name).regresses])
def test_no_step_of_a_regression_waits(name, monkeypatch):
    data = Sinusoid(lines=True, tasks_per_batch=2)
    model = getattr(algorithms, name)(image_shape=(1, 1, 1), task_parallel="vmap", **{**ALGORITHMS[name], **CURVES})
    train(model, data, monkeypatch)


def test_no_step_on_tasks_without_labels_waits(packed, monkeypatch):
    data = glyphs(packed, num_unlabelled=2, unlabelled_tasks=0.5)
    train(vectorised("MetaGAN-relation", data), data, monkeypatch)


@pytest.mark.parametrize(
    "settings", [{"store": "host"}, {"sampling": "variable", "tasks_per_batch": 1, "min_ways": 3, "max_ways": 6}]
)
def test_no_step_waits_for_its_images(settings, packed, monkeypatch):
    data = glyphs(packed, **settings)
    train(vectorised("ProtoNet", data), data, monkeypatch)


def test_no_step_on_several_benchmarks_waits(packed, monkeypatch):
    data = MultiSource(sources=["Glyphs", "Glyphs"], cache_dir=packed, **SIZES)
    train(vectorised("ProtoNet", data), data, monkeypatch)


# The stand-in itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waits", "message"),
    [
        (lambda loss: loss.item(), "item.. cannot be called on meta"),
        (lambda loss: bool(loss > 0), "item.. cannot be called on meta"),
        (lambda loss: loss.cpu(), "Cannot copy out of meta"),
        (lambda loss: loss[None][loss[None] > 0], "nonzero"),
        (lambda loss: loss + torch.ones(2), "aten.add.* of tensors of"),
        (lambda loss: torch.ones(2).to(loss.device), r"_to_copy.* of \(2,\) waits"),
        (lambda loss: torch.ones(2, device=loss.device).copy_(torch.ones(2)), r"copy_.* of \(2,\) waits"),
    ],
    ids=["item", "if", "cpu", "mask", "two places", "sent", "copied"],
)
def test_a_step_that_waits_is_seen(waits, message, packed, monkeypatch):
    data = glyphs(packed)
    model = vectorised("ProtoNet", data)
    losses = model.training_losses
    steps = []

    def waiting(batch):
        steps.append(batch)
        if len(steps) == NUM_STEPS:
            waits(losses(batch)["loss"])
        return losses(batch)

    monkeypatch.setattr(model, "training_losses", waiting)
    with pytest.raises((AssertionError, RuntimeError), match=message):
        train(model, data, monkeypatch)
    assert len(steps) == NUM_STEPS
