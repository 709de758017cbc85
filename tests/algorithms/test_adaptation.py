"""How inner gradients are taken: by autograd itself wherever it can, and as torch.func takes them, in float64."""

from contextlib import nullcontext

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient, random_episode
from own_images import ALGORITHMS
from torch.func import functional_call

from fewshot_pl import algorithms
from fewshot_pl.algorithms.adaptation import learner_gradient
from fewshot_pl.algorithms.gradient import GradientAlgorithm
from fewshot_pl.backbones.normalization import episodic_norms
from fewshot_pl.backbones.passes import vectorised_pass
from fewshot_pl.functional import inner_loop
from fewshot_pl.functional.objectives import prediction_loss

ADAPTING = [*(name for name in ALGORITHMS if issubclass(getattr(algorithms, name), GradientAlgorithm)), "MetaGAN"]
TOLERANCE = {"rtol": 1e-7, "atol": 1e-9}


def build(name, **arguments):
    torch.manual_seed(0)
    settings = {**ALGORITHMS[name], "image_shape": IMAGE_SHAPE, "backbone": "conv4-32", **arguments}
    return getattr(algorithms, name)(**settings).double()


def refused(*_, **__):
    raise AssertionError("torch.func takes a gradient")


@pytest.fixture
def episode():
    return random_episode(dtype=torch.float64)._replace(known_ways=NUM_WAYS)


def support_loss(learner, episode):
    """The function from the learner's parameters to the loss and logits of the first task's support."""

    def loss(parameters):
        logits = functional_call(learner, parameters, (episode.support_x[0],))
        return prediction_loss(logits, episode.support_y[0]), logits

    return loss


@pytest.mark.parametrize("name", ADAPTING)
def test_a_training_takes_its_gradients_by_autograd(name, episode, monkeypatch):
    monkeypatch.setattr(torch.func, "grad", refused)
    build(name).training_losses(episode)["loss"].backward()


@pytest.mark.parametrize("name", ADAPTING)
def test_batch_norm_adds_what_it_is_told_to_the_variance(name, episode):
    by_default, told = build(name), build(name, norm_eps=0.1)
    assert {layer.eps for layer in episodic_norms(told)} == {0.1}
    assert not torch.allclose(told.eval()(episode), by_default.eval()(episode))
    for layer in episodic_norms(by_default):
        layer.eps = 0.1
    assert torch.equal(told(episode), by_default(episode))


@pytest.mark.parametrize("name", [name for name in ADAPTING if name != "LSTMMetaLearner"])
def test_a_checkpoint_from_before_norm_eps_has_batch_norms_own(name):
    arguments = {key: value for key, value in build(name).hparams.items() if key != "norm_eps"}
    assert {layer.eps for layer in episodic_norms(getattr(algorithms, name)(**arguments))} == {1e-5}


@pytest.mark.parametrize("task_parallel", ["loop", "threads"])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad], ids=["inference", "no_grad"])
@pytest.mark.parametrize("name", ADAPTING)
def test_so_does_an_evaluation(name, mode, task_parallel, episode, monkeypatch):
    expected = build(name, task_parallel="vmap").eval()(episode).detach()
    model = build(name, task_parallel=task_parallel).eval()
    monkeypatch.setattr(torch.func, "grad", refused)
    with mode():
        made_here = random_episode(dtype=torch.float64)._replace(known_ways=NUM_WAYS)
        assert made_here.support_x.is_inference() == (mode is torch.inference_mode)
        outputs = model(made_here)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, expected, **TOLERANCE)


@pytest.mark.parametrize("has_gradients", [True, False], ids=["torch now", "torch before 2.12"])
@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_tasks_of_inference_mode_are_evaluated_outside_of_it(task_parallel, has_gradients, episode, monkeypatch):
    """Copies of them; vmap, whose gradients are torch.func's, has no need to where torch has these there."""
    monkeypatch.setattr(inner_loop, "GRADS_IN_INFERENCE_MODE", has_gradients and inner_loop.GRADS_IN_INFERENCE_MODE)
    stays = task_parallel == "vmap" and inner_loop.GRADS_IN_INFERENCE_MODE
    model = build("MAML", task_parallel=task_parallel).eval()
    with torch.no_grad():
        expected = model(episode)
    modes, logits = [], model.query_logits
    monkeypatch.setattr(
        model, "query_logits", lambda *task: modes.append(torch.is_inference_mode_enabled()) or logits(*task)
    )
    with torch.inference_mode():
        made_here = random_episode(dtype=torch.float64)
        within = model(made_here)
    assert set(modes) == {stays}
    with torch.no_grad():
        torch.testing.assert_close(model(made_here), expected, rtol=0, atol=0)
    torch.testing.assert_close(within, expected, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["transductive", "running", "support", "group"])
@pytest.mark.parametrize("first_order", [True, False])
def test_the_gradient_of_a_learner_is_torch_funcs(first_order, norm, episode):
    learner = build("MAML", norm=norm).learner
    point = learner.point().detach().requires_grad_()
    weights = torch.randn_like(point)

    def found(context):
        with context:
            gradient, logits = learner_gradient(learner, support_loss(learner, episode), point, first_order)
        assert not logits.requires_grad
        assert gradient.requires_grad == (not first_order)
        of_gradient = torch.zeros(()) if first_order else torch.autograd.grad(gradient @ weights, point)[0]
        return gradient.detach(), logits, of_gradient

    for ours, reference in zip(found(nullcontext()), found(vectorised_pass(learner)), strict=True):
        torch.testing.assert_close(ours, reference, **TOLERANCE)


def test_where_autograd_is_off_the_gradient_is_a_constant(episode):
    learner = build("MAML").learner
    point, loss = learner.point(), support_loss(learner, episode)
    expected, _ = learner_gradient(learner, loss, point)
    with torch.no_grad():
        gradient, _ = learner_gradient(learner, loss, point, first_order=False)
    assert not gradient.requires_grad and torch.equal(gradient, expected)


# Mixed precision -------------------------------------------------------------------------------------


def with_and_without_autocast(function):
    """What a function returns within autocast to bfloat16, and without."""
    values = []
    for enabled in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values.append(function())
    return values


@pytest.mark.parametrize(
    ("name", "num_steps"),
    [
        ("MAML", 3),
        ("BOIL", 3),
        ("MetaSGD", 3),
        ("Reptile", 3),
        ("PLATIPUS", 0),
        ("PLATIPUS", 3),
        ("LSTMMetaLearner", 3),
    ],
)
def test_steps_on_a_task_know_no_autocast(name, num_steps):
    """A step of PLATIPUS to the mean of p comes before those that are counted."""
    model, episode = build(name).float(), random_episode()
    task = episode.support_x[0], episode.support_y[0]
    mixed, exact = with_and_without_autocast(lambda: model.adapted(*task, num_steps))
    assert all(torch.equal(mixed[name], value) for name, value in exact.items())
    kept = {"head.weight", "head.bias"} if name == "BOIL" else set()
    assert {key for key, start in model.learner.named_parameters() if torch.equal(exact[key], start)} == kept


@pytest.mark.parametrize("task_parallel", ["loop", "vmap", "side_by_side"])
def test_the_outer_gradient_of_reptile_knows_no_autocast(task_parallel):
    def gradient():
        model = build("Reptile", task_parallel=task_parallel).float()
        return flat_gradient(model.training_losses(random_episode())["loss"], model)

    assert torch.equal(*with_and_without_autocast(gradient))
