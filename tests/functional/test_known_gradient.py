"""A loss whose gradient was computed beforehand passes it on, scaled, and keeps nothing else."""

import pytest
import torch

from fewshot_pl.functional.known_gradient import with_known_gradient


@pytest.fixture
def parameters():
    return [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(3.0, requires_grad=True), torch.ones(2)]


def known(parameters):
    weight, bias, constant = parameters
    loss = (weight * constant).square().sum() * bias
    gradients = torch.autograd.grad(loss, (weight, bias))
    return loss, with_known_gradient(loss, [weight, bias], gradients)


def test_value_and_gradient_are_those_of_the_loss(parameters):
    loss, value = known(parameters)
    assert torch.equal(value, loss.detach())
    expected = torch.autograd.grad(
        (5.0 * parameters[1] * (parameters[0] * parameters[2]).square().sum()), parameters[:2]
    )
    for gradient, reference in zip(torch.autograd.grad(5.0 * value, parameters[:2]), expected, strict=True):
        torch.testing.assert_close(gradient, reference)


def test_a_parameter_that_has_no_part_gets_no_gradient(parameters):
    loss = parameters[0].square().sum()
    gradients = torch.autograd.grad(loss, parameters[:2], allow_unused=True)
    with_known_gradient(loss, parameters[:2], gradients).backward()
    assert parameters[0].grad.tolist() == [2, 4] and parameters[1].grad is None


def test_there_is_no_second_derivative(parameters):
    _, value = known(parameters)
    (gradient,) = torch.autograd.grad(value, parameters[0], create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
