"""BOIL against steps written out in plain torch, MAML and ANIL, in float64."""

import pytest
import torch
from episodes import flat_gradient
from meta_gradients import build, plain_torch_twin, slopes
from torch.func import functional_call
from torch.nn import functional as F

from fewshot_pl.algorithms import ANIL, BOIL, MAML


def steps_written_out(twin, task, inner_lr, num_steps, first_order):
    """The query loss of a task after steps of a network in torch's own layers, whose last layer stays as it is."""
    support_x, support_y, query_x, query_y = task
    parameters = dict(twin.named_parameters())
    last = f"{len(twin) - 1}."
    for _ in range(num_steps):
        loss = F.cross_entropy(functional_call(twin, parameters, (support_x,)), support_y)
        body = {name: value for name, value in parameters.items() if not name.startswith(last)}
        slopes = torch.autograd.grad(loss, list(body.values()), create_graph=not first_order)
        stepped = {name: value - inner_lr * slope for (name, value), slope in zip(body.items(), slopes, strict=True)}
        parameters = {**parameters, **stepped}
    return F.cross_entropy(functional_call(twin, parameters, (query_x,)), query_y)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_meta_gradient_are_those_of_steps_written_out(first_order, task_parallel, episode):
    model = build(BOIL, first_order=first_order, task_parallel=task_parallel, inner_lr=0.2)
    twin = plain_torch_twin(model)
    losses = [steps_written_out(twin, task, 0.2, 3, first_order) for task in zip(*episode[:4], strict=True)]
    ours, theirs = model.training_losses(episode)["loss"], sum(losses) / episode.num_tasks
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(flat_gradient(ours, model), flat_gradient(theirs, twin), rtol=0, atol=1e-10)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_meta_gradient_is_that_of_central_differences(task_parallel, episode):
    exact, numerical = slopes(build(BOIL, task_parallel=task_parallel), episode)
    torch.testing.assert_close(exact, numerical, rtol=1e-6, atol=1e-8)


def test_a_step_of_maml_is_one_of_boil_and_one_of_anil(episode):
    task = episode.support_x[0], episode.support_y[0]
    of_both, of_body, of_head = (
        build(algorithm, inner_loss_reduction="mean").adapted(*task, 1) for algorithm in (MAML, BOIL, ANIL)
    )
    expected = {name: (of_head if name.startswith("head.") else of_body)[name] for name in of_both}
    torch.testing.assert_close(of_both, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_a_task_changes_the_body_and_no_bit_of_the_head(task_parallel, episode):
    model = build(BOIL, task_parallel=task_parallel)
    start = dict(model.learner.named_parameters())
    adapted = model.adapted(episode.support_x[0], episode.support_y[0], 3)
    assert adapted.keys() == start.keys()
    kept = {name for name, value in adapted.items() if torch.equal(value, start[name])}
    # Batch norm takes away what a convolution's bias adds, except for rounding.
    assert {"head.weight", "head.bias"} <= kept <= {"head.weight", "head.bias"} | {n for n in start if "conv.bias" in n}
