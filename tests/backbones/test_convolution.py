"""convolution: torch's own function, and its first two derivatives."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.backbones import build_learner
from fewshot_pl.backbones.convolution import Convolution, convolution
from fewshot_pl.backbones.passes import second_order_pass

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture(params=LAYOUTS, ids=["channels first", "channels last"])
def inputs(request):
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 5, 4, dtype=torch.float64).contiguous(memory_format=request.param)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64).contiguous(memory_format=request.param)
    bias = torch.randn(4, dtype=torch.float64)
    return [tensor.requires_grad_() for tensor in (maps, weight, bias)]


sizes = pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])


@sizes
def test_derivatives_are_central_differences(inputs, stride, padding):
    def convolved(*inputs):
        return convolution(*inputs, stride, padding)

    assert torch.autograd.gradcheck(convolved, inputs)
    assert torch.autograd.gradgradcheck(convolved, inputs)


@sizes
@pytest.mark.parametrize("differentiated", [True, False], ids=["maps", "images"])
def test_value_and_second_derivatives_are_torchs(inputs, stride, padding, differentiated):
    inputs[0].requires_grad_(differentiated)  # a first layer's images are not differentiated
    learned = [values for values in inputs if values.requires_grad]

    def second(function):
        convolved = function(*inputs, stride, padding)
        first = torch.autograd.grad(convolved.sin().sum(), learned, create_graph=True)
        return convolved, *torch.autograd.grad(sum(gradient.square().sum() for gradient in first), learned)

    def torchs(maps, weight, bias, stride, padding):
        return F.conv2d(maps, weight, bias, stride, padding)

    torch.testing.assert_close(second(convolution), second(torchs), rtol=1e-10, atol=1e-10)


def test_the_third_derivative_is_refused(inputs):
    first = torch.autograd.grad(convolution(*inputs, 1, 1).sin().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(first[1].square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second[0].square().sum().backward()


def test_a_second_order_pass_tells_all_convolutions_of_conv4():
    learner = build_learner("conv4", (1, 16, 16), "transductive", 5)
    layers = [layer for layer in learner.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [type(layer) for layer in layers] == [Convolution] * 4
    with second_order_pass(learner):
        assert all(layer.twice_differentiated for layer in layers)
    assert not any(layer.twice_differentiated for layer in layers)
