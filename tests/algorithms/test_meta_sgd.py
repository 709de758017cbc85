"""Meta-SGD against MAML, its definition and learn2learn, in float64."""

import pytest
import torch
from episodes import NUM_WAYS, flat_gradient
from meta_gradients import build, plain_torch_twin, slopes
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from fewshot_pl.algorithms import MAML, MetaSGD

ONE_STEP = {"num_inner_steps": 1, "inner_loss_reduction": "mean"}


def with_random_rates(model):
    """The model with rates of both signs."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.alpha.uniform_(-0.05, 0.3, generator=generator)
    return model


@pytest.mark.parametrize("first_order", [False, True])
def test_equal_rates_are_maml(first_order, episode):
    settings = {**ONE_STEP, "num_inner_steps": 3, "inner_lr": 0.25, "first_order": first_order}
    ours, maml = build(MetaSGD, **settings), build(MAML, **settings)
    losses = [model.training_losses(episode)["loss"] for model in (ours, maml)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
    of_theta = torch.autograd.grad(losses[0], list(ours.learner.parameters()))
    torch.testing.assert_close(
        torch.cat([gradient.flatten() for gradient in of_theta]), flat_gradient(losses[1], maml), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_gradient_of_the_rates_is_minus_the_product_of_both_gradients(task_parallel, episode):
    model = with_random_rates(build(MetaSGD, **ONE_STEP, task_parallel=task_parallel))
    (of_rates,) = torch.autograd.grad(model.training_losses(episode)["loss"], [model.alpha])
    theta, expected = list(model.learner.parameters()), 0
    names = [name for name, _ in model.learner.named_parameters()]
    for support_x, support_y, query_x, query_y in zip(*episode[:4], strict=True):
        at_theta = torch.autograd.grad(F.cross_entropy(model.learner(support_x), support_y), theta)
        rates = torch.split(model.alpha.detach(), [value.numel() for value in theta])
        phi = [
            (value - rate.view_as(value) * slope).detach().requires_grad_()
            for value, rate, slope in zip(theta, rates, at_theta, strict=True)
        ]
        logits = functional_call(model.learner, dict(zip(names, phi, strict=True)), (query_x,))
        at_phi = torch.autograd.grad(F.cross_entropy(logits, query_y), phi)
        products = [-(one * other).flatten() for one, other in zip(at_theta, at_phi, strict=True)]
        expected = expected + torch.cat(products) / episode.num_tasks
    torch.testing.assert_close(of_rates, expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("num_inner_steps", [1, 3])
def test_loss_and_meta_gradient_are_learn2learns(num_inner_steps, first_order, task_parallel, episode):
    from learn2learn.algorithms import MetaSGD as TheirMetaSGD  # seconds to import, so only here

    settings = {**ONE_STEP, "num_inner_steps": num_inner_steps, "first_order": first_order}
    ours = with_random_rates(build(MetaSGD, **settings, task_parallel=task_parallel))
    twin = plain_torch_twin(ours.learner)
    theirs = TheirMetaSGD(twin, lr=0.1, first_order=first_order)
    nn.utils.vector_to_parameters(ours.alpha.detach(), theirs.lrs)
    their_losses = []
    for support_x, support_y, query_x, query_y in zip(*episode[:4], strict=True):
        learner = theirs.clone()
        for _ in range(num_inner_steps):
            learner.adapt(F.cross_entropy(learner(support_x), support_y))
        their_losses.append(F.cross_entropy(learner(query_x), query_y))

    our_loss, their_loss = ours.training_losses(episode)["loss"], sum(their_losses) / episode.num_tasks
    torch.testing.assert_close(our_loss, their_loss, rtol=0, atol=1e-10)
    for part, parameters in ((ours.learner.parameters(), twin.parameters()), ([ours.alpha], theirs.lrs)):
        gradients = [
            torch.cat([values.flatten() for values in torch.autograd.grad(loss, list(those), retain_graph=True)])
            for loss, those in ((our_loss, part), (their_loss, parameters))
        ]
        torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


def test_meta_gradient_is_that_of_central_differences(episode):
    exact, numerical = slopes(with_random_rates(build(MetaSGD)), episode)
    torch.testing.assert_close(exact, numerical, rtol=1e-6, atol=1e-8)


def test_rates_start_equal_within_the_papers_range():
    torch.manual_seed(0)
    starts = [MetaSGD(num_ways=NUM_WAYS, backbone="conv4-32").alpha.detach() for _ in range(20)]
    assert all((alpha == alpha[0]).all() for alpha in starts)
    first = torch.stack([alpha[0] for alpha in starts])
    assert 0.005 <= first.min() < 0.03 < 0.07 < first.max() <= 0.1
    assert (build(MetaSGD, inner_lr=0.25).alpha == 0.25).all()


def test_step_sizes_are_told_by_layer():
    model = with_random_rates(build(MetaSGD))
    sizes = model.learned_step_sizes
    assert [name.removeprefix("alpha/") for name in sizes] == [name for name, _ in model.learner.named_parameters()]
    assert torch.equal(torch.cat([values.flatten() for values in sizes.values()]), model.alpha)
