"""The memory layout of maps: a CPU computes them fastest with their channels innermost."""

import pytest
import torch
from episodes import NUM_WAYS, random_episode
from torch.utils._python_dispatch import TorchDispatchMode

from fewshot_pl.algorithms import MAML, ProtoNet
from fewshot_pl.backbones import conv_block

# Operations that take several times as long with channels outermost, or with maps of different layouts.
SLOW = ("convolution", "native_batch_norm", "max_pool2d", "threshold", "relu", "add.", "addcmul", "mul.")


class Layouts(TorchDispatchMode):
    """Records the names of operations on maps whose channels are not innermost."""

    def __init__(self):
        super().__init__()
        self.outermost = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        name = function.__name__
        if name.startswith(SLOW):
            self.outermost += [
                (name, values.shape)
                for values in [*args, outputs]
                if isinstance(values, torch.Tensor) and is_of_maps(values) and not is_channels_last(values)
            ]
        return outputs


def is_of_maps(values):
    """Whether a tensor is neither a kernel, 3x3, nor the last maps, 2x2, which are flattened."""
    return values.ndim == 4 and min(values.shape[2:]) > 3


def is_channels_last(values):
    return values.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("cached_bytes", [0, 2**40], ids=["folded", "one after the other"])
@pytest.mark.parametrize("num_channels", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("task_parallel", ["loop", "side_by_side"])
def test_all_maps_of_a_second_order_step_have_their_channels_innermost(
    monkeypatch, cached_bytes, num_channels, task_parallel
):
    monkeypatch.setattr(conv_block, "_CACHED_BYTES", cached_bytes)
    model = MAML(
        num_ways=NUM_WAYS,
        image_shape=(num_channels, 32, 32),
        backbone="conv4",
        num_inner_steps=2,
        task_parallel=task_parallel,
    )
    assert_channels_innermost(model, num_channels)


@pytest.mark.parametrize("num_channels", [1, 3], ids=["grey", "colour"])
def test_all_maps_of_an_embedding_have_their_channels_innermost(num_channels):
    model = ProtoNet(image_shape=(num_channels, 32, 32), backbone="conv4")
    assert_channels_innermost(model.to(memory_format=torch.channels_last), num_channels)


def assert_channels_innermost(model, num_channels):
    episode = random_episode(image_shape=(num_channels, 32, 32))._replace(known_ways=NUM_WAYS)
    layouts = Layouts()
    with layouts:
        model.training_losses(episode)["loss"].backward()
    assert not layouts.outermost
