"""batch_norm: torch's own function, and its first two derivatives."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.backbones.batch_norm import batch_norm

EPS = 1e-2  # large, so that a derivative that forgets it shows


@pytest.fixture(params=[torch.contiguous_format, torch.channels_last], ids=["channels first", "channels last"])
def inputs(request):
    torch.manual_seed(0)
    maps = torch.randn(3, 4, 3, 2, dtype=torch.float64).mul(2).add(1).contiguous(memory_format=request.param)
    weight, bias = torch.randn(2, 4, dtype=torch.float64)
    weight[1] = 0  # nothing may be divided by it
    return [tensor.requires_grad_() for tensor in (maps, weight, bias)]


def normed(maps, weight, bias):
    return batch_norm(maps, weight, bias, EPS)


def test_derivatives_are_central_differences(inputs):
    assert torch.autograd.gradcheck(normed, inputs)
    assert torch.autograd.gradgradcheck(normed, inputs)


def test_value_and_statistics_are_torchs(inputs):
    ours, torchs = torch.zeros(2, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)
    maps, weight, bias = inputs
    expected = F.batch_norm(maps, *torchs, weight, bias, training=True, momentum=1.0, eps=EPS)
    torch.testing.assert_close(batch_norm(maps, weight, bias, EPS, *ours), expected, rtol=0, atol=0)
    torch.testing.assert_close(ours, torchs, rtol=0, atol=0)


def test_second_derivatives_are_those_of_torchs_own(inputs):
    def second(function):
        first = torch.autograd.grad(function(*inputs).sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), inputs)

    def torchs(maps, weight, bias):
        return F.batch_norm(maps, None, None, weight, bias, training=True, eps=EPS)

    torch.testing.assert_close(second(normed), second(torchs), rtol=1e-10, atol=1e-10)


def test_the_third_derivative_is_refused(inputs):
    first = torch.autograd.grad(normed(*inputs).sin().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second[0].square().sum().backward()
