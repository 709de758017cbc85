"""Norms from means and variances, beside torch's own."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.functional import primitive_norms
from fewshot_pl.functional.primitive_norms import PrimitiveNorms

MAPS = 5, 3, 4, 2  # [n, C, H, W]
KINDS = {
    "layer_norm": ((3, 4, 2), lambda norm, x, *affine: norm(x, (3, 4, 2), *affine, eps=0.1)),
    "instance_norm": ((3,), lambda norm, x, *affine: norm(x, None, None, *affine, eps=0.1)),
    "batch_norm": ((3,), lambda norm, x, *affine: norm(x, None, None, *affine, training=True, eps=0.1)),
}


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_values_and_derivatives_are_those_of_torch(name, affine):
    torch.manual_seed(0)
    size, call = KINDS[name]
    inputs = (random(*MAPS), random(*size), random(*size)) if affine else (random(*MAPS),)
    found, expected = (call(getattr(module, name), *inputs) for module in (primitive_norms, F))
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    gradients = [
        torch.autograd.grad((values * weights).sum(), inputs, create_graph=True) for values in (found, expected)
    ]
    torch.testing.assert_close(*gradients)
    # The last input is the bias, by which the gradients have no derivative.
    seconds = [torch.autograd.grad(sum(one.square().sum() for one in some), inputs[:2]) for some in gradients]
    torch.testing.assert_close(*seconds)


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_are_left_to_torch(training):
    def normed(mean, var):
        batch = F.batch_norm(images, mean, var, training=training)
        return batch, F.instance_norm(images, mean, var, use_input_stats=training), mean, var

    images = torch.randn(MAPS)
    with PrimitiveNorms():
        found = normed(torch.ones(3), torch.full((3,), 4.0))
    torch.testing.assert_close(found, normed(torch.ones(3), torch.full((3,), 4.0)))


def test_within_it_layers_and_functions_are_written_out():
    layers = torch.nn.LayerNorm(2), torch.nn.InstanceNorm2d(3), torch.nn.BatchNorm2d(3, track_running_stats=False)
    images = torch.randn(MAPS, requires_grad=True)
    for normed in (*layers, lambda x: torch.layer_norm(x, (2,))):
        arithmetic = "AddBackward0", "MulBackward0"
        assert type(normed(images).grad_fn).__name__ not in arithmetic
        with PrimitiveNorms():
            assert type(normed(images).grad_fn).__name__ in arithmetic
