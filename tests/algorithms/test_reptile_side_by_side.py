"""Reptile's inner steps of several tasks side by side: the step of a loop over tasks, in float64."""

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient, random_episode

from fewshot_pl.algorithms import Reptile
from fewshot_pl.errors import InputError

NUM_TASKS = 5


@pytest.fixture
def descents(monkeypatch):
    """The number of Reptile's tasks in each descent side by side; () for a task by itself."""
    sizes = []
    descended = Reptile._descended

    def noted(model, images, labels, batches, *state):
        sizes.append(tuple(batches.shape[:-2]))
        return descended(model, images, labels, batches, *state)

    monkeypatch.setattr(Reptile, "_descended", noted)
    return sizes


def build(**arguments):
    """A Reptile with a warm inner Adam, which does not blow up the rounding errors of zero gradients."""
    torch.manual_seed(0)
    sizes = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "inner_batch_size": 4, "num_inner_steps": 4}
    model = Reptile(**{**sizes, "inner_lr": 0.01, **arguments}).double()
    model.inner_second_moment.fill_(1)
    model.inner_total_weight.fill_(1)
    return model


def tasks(image_shape=IMAGE_SHAPE, num_shots=1, num_queries=3):
    return random_episode(NUM_TASKS, NUM_WAYS, num_shots, num_queries, image_shape, torch.float64)


def step(model, episode):
    torch.manual_seed(5)
    losses = model.training_losses(episode)
    gradient = flat_gradient(losses["loss"], model)
    model.update_inner_state()
    figures = (value.detach() for value in losses.values())
    return [*figures, gradient, model.inner_total_weight, model.inner_second_moment]


def assert_equal_steps(found, expected_step):
    for value, expected in zip(found, expected_step, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["transductive", "support"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"inner_loss_reduction": "mean"},
        {"inner_optimizer": "sgd"},
        {"backbone": "conv4-32", "image_shape": (3, 16, 16)},
    ],
)
def test_it_equals_a_loop(arguments, norm, descents):
    episode = tasks(arguments.get("image_shape", IMAGE_SHAPE))
    together = step(build(task_chunk=2, norm=norm, **arguments), episode)
    assert descents == [(2,), (2,), (1,)]
    looped = step(build(task_parallel="loop", norm=norm, **arguments), episode)
    assert descents[3:] == [()] * NUM_TASKS
    assert_equal_steps(together, looped)


def test_told_so_all_tasks_do_however_large(descents):
    episode = tasks(num_shots=9, num_queries=1)
    together = step(build(task_parallel="side_by_side", inner_batch_size=30), episode)
    assert descents == [(NUM_TASKS,)]
    looped = step(build(inner_batch_size=30), episode)
    assert descents[1:] == [()] * NUM_TASKS
    assert_equal_steps(together, looped)


@pytest.mark.parametrize("arguments", [{"sequential": True}, {"norm": "running"}, {"compile": True}])
def test_what_cannot_be_taken_side_by_side_is_refused(arguments):
    with pytest.raises(InputError, match=r"leave out --model\.task_parallel"):
        build(task_parallel="side_by_side", **arguments)


@pytest.mark.parametrize("arguments", [{"sequential": True}, {"norm": "running"}, {"norm": "group"}])
def test_others_train_as_before(arguments, descents):
    build(**arguments).training_losses(tasks())["loss"].backward()
    assert descents == [()] * NUM_TASKS
