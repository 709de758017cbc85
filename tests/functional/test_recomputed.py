"""Work recomputed in the backward pass has the outputs and gradients of work whose results were kept."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.functional.recomputed import recomputed

CALLS = []
KNOWN_FROM_2_12 = pytest.mark.skipif(torch.__version__ < "2.12", reason="torch.func.grad is 0 in inference mode")


def stepped(weight, images, labels):
    """A gradient step by torch.func, as an inner loop takes it."""
    CALLS.append(1)
    gradient = torch.func.grad(lambda w: F.cross_entropy(torch.tanh(images @ w), labels))(weight)
    return (weight - 0.5 * gradient,)


@pytest.fixture
def tasks():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 6, 5, dtype=torch.float64, generator=generator)
    return images, torch.randint(3, (4, 6), generator=generator)


@pytest.fixture
def weight():
    return torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def task_loss(weight, images, labels, again):
    for _ in range(3):
        (weight,) = recomputed(stepped, weight, images, labels) if again else stepped(weight, images, labels)
    return F.cross_entropy(torch.tanh(images @ weight), labels)


@pytest.mark.parametrize("vmap", [False, True])
def test_outputs_and_gradients_are_the_same(weight, tasks, vmap):
    def result(again):
        def loss(images, labels):
            return task_loss(weight, images, labels, again)

        losses = (
            torch.func.vmap(loss)(*tasks) if vmap else torch.stack([loss(*task) for task in zip(*tasks, strict=True)])
        )
        return losses, torch.autograd.grad(losses.sum(), weight)[0]

    for value, reference in zip(result(True), result(False), strict=True):
        torch.testing.assert_close(value, reference, rtol=0, atol=1e-14)


def test_nothing_but_the_inputs_is_kept_and_the_work_is_done_again(weight, tasks):
    images, labels = tasks[0][0], tasks[1][0]
    CALLS.clear()
    (value,) = recomputed(stepped, weight, images, labels)
    assert len(CALLS) == 1
    kept = value.grad_fn.saved_tensors
    assert [tuple(tensor.shape) for tensor in kept] == [(5, 3), (6, 5), (6,)]
    value.sum().backward()
    assert len(CALLS) == 2


def test_inputs_of_integers_have_no_gradient_and_others_do(weight, tasks):
    images = tasks[0][0].clone().requires_grad_()
    (value,) = recomputed(stepped, weight, images, tasks[1][0])
    (kept,) = stepped(weight, images, tasks[1][0])
    for gradient, reference in zip(
        torch.autograd.grad(value.square().sum(), (weight, images)),
        torch.autograd.grad(kept.square().sum(), (weight, images)),
        strict=True,
    ):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-14)


@pytest.mark.parametrize("autograd_off", [torch.no_grad, pytest.param(torch.inference_mode, marks=KNOWN_FROM_2_12)])
def test_works_where_autograd_is_off(weight, tasks, autograd_off):
    with autograd_off():
        (value,) = recomputed(stepped, weight, tasks[0][0], tasks[1][0])
    assert not value.requires_grad and torch.equal(value, stepped(weight, tasks[0][0], tasks[1][0])[0])
