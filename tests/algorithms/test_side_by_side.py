"""Inner steps of several tasks side by side: the losses and gradients of a loop over tasks, in float64."""

from types import SimpleNamespace

import pytest
import torch
import valueless
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient, random_episode
from torch import nn
from torch.nn.utils import prune

from fewshot_pl.algorithms import MAML, PLATIPUS, Reptile
from fewshot_pl.algorithms.side_by_side import images_side_by_side, parted, repeated
from fewshot_pl.backbones import Learner
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError

NUM_TASKS = 5


def build(algorithm=MAML, image_shape=IMAGE_SHAPE, **arguments):
    torch.manual_seed(0)
    defaults = {"num_ways": NUM_WAYS, "backbone": "conv4-32", "inner_lr": 0.1, "num_inner_steps": 2}
    return algorithm(image_shape=image_shape, **{**defaults, **arguments}).double()


def tasks(image_shape=IMAGE_SHAPE, num_shots=1, num_queries=3):
    episode = random_episode(NUM_TASKS, NUM_WAYS, num_shots, num_queries, image_shape, torch.float64)
    return episode._replace(known_ways=NUM_WAYS)


@pytest.fixture
def query_passes(monkeypatch):
    """The numbers of tasks whose queries passed at once."""
    sizes = []
    logits_at = MAML.logits_at

    def noted(model, parameters, support_x, query_x):
        sizes.append(query_x.shape[1] // IMAGE_SHAPE[0])
        return logits_at(model, parameters, support_x, query_x)

    monkeypatch.setattr(MAML, "logits_at", noted)
    return sizes


def loss_outputs_gradient(model, episode):
    losses = model.training_losses(episode)
    return losses["loss"].detach(), losses["accuracy"], flat_gradient(losses["loss"], model)


@pytest.mark.parametrize(
    ("algorithm", "arguments", "expected"),
    [
        (MAML, {}, 32),
        (MAML, {"task_chunk": 8}, 8),
        (Reptile, {}, 32),
        (MAML, {"task_parallel": "vmap"}, 1),
        (MAML, {"norm": "group"}, 1),
        (MAML, {"recompute_inner_steps": True}, 1),
        (PLATIPUS, {}, 1),
    ],
)
def test_on_a_gpu_all_tasks_of_a_step_adapt_side_by_side(algorithm, arguments, expected):
    on_a_gpu = SimpleNamespace(is_cpu=False, is_cuda=True)
    assert build(algorithm, **arguments).num_side_by_side(on_a_gpu, 32) == expected


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [(MAML, {}), (MAML, {"num_inner_steps": 5}), (MAML, {"first_order": True}), (Reptile, {})],
)
def test_a_gpu_is_asked_for_far_fewer_operations_than_by_vmap(algorithm, arguments, monkeypatch):
    monkeypatch.setattr(torch, "autocast", valueless.Autocast)
    episode = Episode(*(field.to(valueless.DEVICE) for field in tasks()[:4]), known_ways=NUM_WAYS)

    def num_operations(task_parallel):
        model = build(algorithm, task_parallel=task_parallel, **arguments).to(valueless.DEVICE)
        with valueless.Count() as count:
            model.training_losses(episode)["loss"].backward()
        return count.num_operations

    assert num_operations("side_by_side") < 0.6 * num_operations("vmap")


@pytest.mark.parametrize("norm", ["transductive", "support"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize(
    ("backbone", "image_shape"), [("conv4-strided", IMAGE_SHAPE), ("conv4", IMAGE_SHAPE), ("conv4-32", (3, 16, 16))]
)
def test_it_equals_a_loop(backbone, image_shape, first_order, norm, group_sizes):
    arguments = {"backbone": backbone, "image_shape": image_shape, "first_order": first_order, "norm": norm}
    episode = tasks(image_shape)
    together = loss_outputs_gradient(build(task_chunk=2, **arguments), episode)
    assert group_sizes == [2, 2, 1]
    looped = loss_outputs_gradient(build(task_parallel="loop", **arguments), episode)
    assert group_sizes == [2, 2, 1]
    for value, expected in zip(together, looped, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("num_targets", [1, 2])
def test_regression_of_images_equals_a_loop(num_targets, group_sizes):
    episode = tasks()
    support_y, query_y = (torch.randn(*y.shape, num_targets).double() for y in (episode.support_y, episode.query_y))
    episode = episode._replace(support_y=support_y, query_y=query_y, known_ways=None)

    def loss_and_gradient(**arguments):
        model = build(num_ways=num_targets, **arguments)
        loss = model.training_losses(episode)["loss"]
        return loss.detach(), flat_gradient(loss, model)

    together = loss_and_gradient(task_chunk=2)
    assert group_sizes == [2, 2, 1]
    for value, expected in zip(together, loss_and_gradient(task_parallel="loop"), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("norm", ["transductive", "support"])
@pytest.mark.parametrize(("num_queries", "sizes"), [(1, [2, 2, 1]), (9, [1] * NUM_TASKS)])
def test_queries_pass_together_where_they_are_few(num_queries, sizes, norm, query_passes):
    episode = tasks(num_queries=num_queries)
    together = loss_outputs_gradient(build(task_chunk=2, norm=norm), episode)
    assert query_passes == sizes
    looped = loss_outputs_gradient(build(task_parallel="loop", norm=norm), episode)
    for value, expected in zip(together, looped, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["transductive", "support"])
@pytest.mark.parametrize(("task_chunk", "sizes"), [(None, [NUM_TASKS]), (3, [3, 2])])
def test_told_so_all_tasks_adapt_side_by_side_however_large(task_chunk, sizes, norm, group_sizes):
    episode = tasks(num_shots=9)
    arguments = {"norm": norm, "inner_loss_reduction": "mean"}
    model = build(task_parallel="side_by_side", task_chunk=task_chunk, **arguments)
    together = loss_outputs_gradient(model, episode)
    assert group_sizes == sizes
    looped_model = build(task_parallel="loop", **arguments)
    looped = loss_outputs_gradient(looped_model, episode)
    for value, expected in zip(together, looped, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(episode), looped_model.eval()(episode), rtol=1e-9, atol=1e-12)
    assert group_sizes == sizes


@pytest.mark.parametrize(
    "arguments",
    [
        {"norm": "running"},
        {"backbone": "resnet12", "image_shape": (3, 16, 16)},
        {"recompute_inner_steps": True},
        {"compile": True},
    ],
)
def test_what_cannot_be_taken_side_by_side_is_refused(arguments):
    with pytest.raises(InputError, match=r"leave out --model\.task_parallel"):
        build(task_parallel="side_by_side", **arguments)


def test_subclasses_refuse_tasks_side_by_side():
    class Own(MAML):
        """It may adapt differently."""

    with pytest.raises(InputError, match="by MAML and Reptile, not by their subclasses"):
        build(Own, task_parallel="side_by_side")


def test_other_algorithms_refuse_tasks_side_by_side():
    with pytest.raises(InputError, match="PLATIPUS takes no tasks side by side"):
        build(PLATIPUS, task_parallel="side_by_side")


def test_so_do_means_over_the_support(group_sizes):
    episode = tasks()
    losses = [
        loss_outputs_gradient(build(inner_loss_reduction="mean", task_parallel=parallel), episode)
        for parallel in ("auto", "loop")
    ]
    assert sum(group_sizes) == NUM_TASKS
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "arguments",
    [
        {"norm": "running"},
        {"norm": "group"},
        {"norm": "layer"},
        {"norm": "none"},
        {"backbone": "resnet12", "image_shape": (3, 16, 16)},
        {"recompute_inner_steps": True},
        {"task_parallel": "loop"},
        {"task_parallel": "threads"},
        {"task_parallel": "vmap"},
        {"algorithm": type("Subclass", (MAML,), {})},
        {"algorithm": PLATIPUS},
    ],
)
def test_others_train_as_before(arguments, group_sizes):
    model = build(**arguments)
    model.training_losses(tasks(arguments.get("image_shape", IMAGE_SHAPE)))["loss"].backward()
    assert not group_sizes


def test_so_does_a_pruned_learner(group_sizes):
    def gradient(task_parallel):
        model = build(task_parallel=task_parallel)
        for layer in [*model.learner.backbone.modules(), model.learner.head]:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                prune.l1_unstructured(layer, "weight", 0.5)
        return flat_gradient(model.training_losses(tasks())["loss"], model)

    assert torch.equal(gradient("auto"), gradient("loop"))
    assert not group_sizes


def test_supports_of_up_to_25_images_adapt_together(group_sizes):
    build(backbone="conv4-strided", task_chunk=2).training_losses(tasks(num_shots=8))["loss"].backward()
    assert group_sizes == [2, 2, 1]


def test_large_supports_adapt_one_by_one(group_sizes):
    build().training_losses(tasks(num_shots=9))["loss"].backward()
    assert not group_sizes


def test_tasks_of_other_ways_than_the_heads_are_refused():
    with pytest.raises(InputError, match="head of 2 outputs"):
        build(num_ways=2).training_losses(tasks())


def test_a_learner_with_the_parameters_of_tasks_is_all_their_learners():
    learner = build().learner
    parameters = repeated(dict(learner.named_parameters()), 3)
    parameters = {name: value.detach() + 0.1 * torch.randn_like(value) for name, value in parameters.items()}
    images = torch.randn(3, 4, *IMAGE_SHAPE, dtype=torch.float64)
    logits = torch.func.functional_call(learner, parameters, images_side_by_side(images))
    for own, own_parameters, own_images in zip(logits.chunk(3, 1), parted(parameters, 3, 1), images, strict=True):
        expected = torch.func.functional_call(learner, own_parameters, own_images)
        torch.testing.assert_close(own, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_side_by_side_are_innermost_in_memory(channels):
    images = images_side_by_side(torch.randn(4, 5, channels, 6, 6))
    assert images.stride() == torch.empty(5, 4 * channels, 6, 6, memory_format=torch.channels_last).stride()


def test_images_of_a_multiple_of_the_channels_are_still_refused():
    learner: Learner = build().learner
    with pytest.raises(RuntimeError, match="channels"):
        learner(torch.randn(4, 2, 16, 16, dtype=torch.float64))
