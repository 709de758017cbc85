"""``--model.compile``: compiling a task changes no loss and no gradient, and if it fails, training goes on."""

from functools import partial

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient, random_episode
from torch._dynamo.backends.common import aot_autograd

from fewshot_pl.algorithms import ANIL, BOIL, MAML, MatchingNet, MetaSGD, ProtoNet

SMALL = {"image_shape": IMAGE_SHAPE, "backbone": "conv4-32"}
ADAPTS = {**SMALL, "num_ways": NUM_WAYS, "num_inner_steps": 2, "inner_lr": 0.05}
ALGORITHMS = {
    "ProtoNet": (ProtoNet, SMALL),
    "MatchingNet": (MatchingNet, {"image_shape": IMAGE_SHAPE, "full_context": True}),
    "MAML": (MAML, ADAPTS),
    "ANIL": (ANIL, ADAPTS),
    "BOIL": (BOIL, ADAPTS),
    "MetaSGD": (MetaSGD, ADAPTS),
}


@pytest.fixture
def traced(monkeypatch):
    """Let torch.compile trace everything as one graph, but skip the C++ compiler, which takes minutes."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))


def step(algorithm, settings, num_tasks=2, **changes):
    """Loss, gradient and buffers of a training step, always from the same weights and tasks."""
    torch.manual_seed(0)
    model = algorithm(**{**settings, **changes}).double()
    torch.manual_seed(1)
    episode = random_episode(num_tasks, dtype=torch.float64)._replace(known_ways=NUM_WAYS)
    loss = model.training_losses(episode)["loss"]
    return model, [loss, flat_gradient(loss, model), *model.buffers()]


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_losses_gradients_and_statistics_are_the_same(name, task_parallel, traced, recwarn):
    algorithm, settings = ALGORITHMS[name]
    model, compiled = step(algorithm, settings, task_parallel=task_parallel, compile=True)
    warned = [str(warning.message) for warning in recwarn if "torch.compile" in str(warning.message)]
    assert model.compiles_tasks, warned
    for value, reference in zip(compiled, step(algorithm, settings, task_parallel=task_parallel)[1], strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-11)


def test_steps_made_again_train_without(traced):
    with pytest.warns(UserWarning, match="MAML trains without torch.compile, which failed"):
        model, again = step(MAML, ADAPTS, compile=True, recompute_inner_steps=True)
    assert not model.compiles_tasks
    for value, reference in zip(again, step(MAML, ADAPTS)[1], strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-11)


@pytest.fixture
def no_compiler(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here\nlong story")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=broken))


def test_what_cannot_be_compiled_trains_without(no_compiler):
    with pytest.warns(UserWarning, match="MAML trains without torch.compile, which failed"):
        model, compiled = step(MAML, ADAPTS, compile=True)
    assert not model.compiles_tasks
    for value, reference in zip(compiled, step(MAML, ADAPTS, task_parallel="loop")[1], strict=True):
        assert torch.equal(value, reference)


def test_so_does_what_has_a_backward_pass_that_cannot(monkeypatch):
    """A task by itself is differentiated by Lightning, after its step."""

    def broken(graph, inputs):
        raise RuntimeError("no backward pass")

    torch.compiler.reset()
    backend = aot_autograd(fw_compiler=lambda graph, inputs: graph, bw_compiler=broken)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with pytest.warns(UserWarning, match="ProtoNet trains without torch.compile, which failed"):
        model, compiled = step(ProtoNet, SMALL, num_tasks=1, compile=True)
    assert not model.compiles_tasks
    for value, reference in zip(compiled, step(ProtoNet, SMALL, num_tasks=1)[1], strict=True):
        assert torch.equal(value, reference)


def test_its_later_steps_are_the_first_ones_of_a_resumed_training(no_compiler):
    """Which tries to compile again."""
    with pytest.warns(UserWarning, match="MAML trains without torch.compile, which failed"):
        model, (_, first, *_) = step(MAML, ADAPTS, compile=True)
    episode = random_episode(dtype=torch.float64)._replace(known_ways=NUM_WAYS)
    assert torch.equal(flat_gradient(model.training_losses(episode)["loss"], model), first)
    assert not model.adapts_side_by_side and model.eval().adapts_side_by_side


def test_an_error_of_the_model_is_not_taken_for_one_of_the_compiler(traced):
    model = ProtoNet(**SMALL, compile=True)
    episode = random_episode()
    with (
        pytest.raises(RuntimeError, match="Sizes of tensors must match"),
        pytest.warns(UserWarning, match="without torch.compile"),
    ):
        model.training_losses(episode._replace(support_x=episode.support_x.repeat(1, 1, 2, 1, 1)))


def test_evaluation_is_not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    assert ProtoNet(**SMALL, compile=True).eval()(random_episode()).shape == (2, 9, NUM_WAYS)
