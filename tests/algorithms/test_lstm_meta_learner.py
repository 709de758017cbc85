"""The LSTM Meta-Learner against gradient descent, finite differences and its equations written out, in float64."""

import math

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient
from quiet_trainer import quiet_trainer
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from fewshot_pl.algorithms import MAML, LSTMMetaLearner
from fewshot_pl.backbones.normalization import EpisodicBatchNorm2d, episodic_norms
from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.errors import InputError
from fewshot_pl.functional.inner_loop import adapted_parameters
from fewshot_pl.functional.meta_lstm import initial_state, preprocessed

NUM_STEPS = 3
INNER_LR = 0.05
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def build(**arguments):
    """A meta-learner of three steps, with the same weights at every call."""
    torch.manual_seed(0)
    sizes = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "num_inner_steps": NUM_STEPS}
    return LSTMMetaLearner(**{**sizes, **arguments}).double()


def with_fixed_gates(model, inner_lr, keep=1.0):
    """The model with constant gates: gradient descent, with weight decay where keep is below 1."""
    with torch.no_grad():
        for parameter in model.meta_lstm.parameters():
            parameter.zero_()
        model.meta_lstm.gate_bias.copy_(torch.tensor([logit(inner_lr), logit(keep)], dtype=torch.float64))
    return model


def with_large_weights(model):
    """The model with an active LSTM: gates in the middle of their range, weights of about 1/2."""
    with torch.no_grad():
        for parameter in model.meta_lstm.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
        model.meta_lstm.gate_bias.copy_(torch.tensor([-2.0, 3.0]))
    return model


def logit(share):
    return 40.0 if share == 1 else math.log(share / (1 - share))  # 1 / (1 + e^-40) is 1 in float64


@pytest.fixture
def task(episode):
    return [tensor[0] for tensor in episode[:4]]


def points_of(model, support_x, support_y):
    """theta_0 to theta_T, [P] each."""
    return [stop.point for stop in model._stops(support_x, support_y, model.num_steps)]


def vector(parameters):
    return torch.cat([value.flatten() for value in parameters.values()])


# With fixed gates: gradient descent ------------------------------------------------------------------


def descended(model, task, inner_lr):
    """The learner's parameters after steps of gradient descent, computed by first-order MAML's code."""
    support_x, support_y = task[:2]

    def loss(parameters):
        return F.cross_entropy(functional_call(model.learner, parameters, (support_x,)), support_y)

    return adapted_parameters(loss, dict(model.learner.named_parameters()), inner_lr, NUM_STEPS, first_order=True)


@pytest.mark.parametrize("norm", ["episode", "group"])
def test_fixed_gates_are_steps_of_gradient_descent(norm, task):
    model = with_fixed_gates(build(norm=norm), INNER_LR)
    adapted = vector(model.adapted(*task[:2], NUM_STEPS))
    reference = vector(descended(model, task, INNER_LR))
    assert (adapted - model.learner.point()).abs().max() > 0.01
    assert (adapted - reference).abs().max() < 1e-14


def test_division_by_the_batch_is_a_smaller_learning_rate(task):
    model = with_fixed_gates(build(norm="group", divide_by_batch=True), INNER_LR)
    reference = vector(descended(model, task, INNER_LR / len(task[0])))
    assert (vector(model.adapted(*task[:2], NUM_STEPS)) - reference).abs().max() < 1e-14


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_gradient_of_the_start_is_that_of_first_order_maml(task_parallel, episode):
    model = with_fixed_gates(build(norm="group", task_parallel=task_parallel), INNER_LR)
    sizes = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "backbone": "conv4-32", "norm": "group"}
    steps = {"inner_lr": INNER_LR, "num_inner_steps": NUM_STEPS, "inner_loss_reduction": "mean"}
    maml = MAML(**sizes, **steps, first_order=True, task_parallel="loop").double()
    maml.learner.load_state_dict(model.learner.state_dict())
    ours, theirs = (flat_gradient(m.training_losses(episode)["loss"], m.learner) for m in (model, maml))
    assert (ours - theirs).abs().max() < 1e-14


def test_a_forget_gate_below_one_shrinks_the_gradient_of_the_start_at_each_step(task):
    support_x, support_y, query_x, query_y = task
    model = with_fixed_gates(build(norm="group"), INNER_LR, keep=0.9)
    gradient = flat_gradient(F.cross_entropy(model.query_logits(*task[:3], NUM_WAYS), query_y), model.learner)
    reached = {name: p.detach().requires_grad_() for name, p in model.adapted(support_x, support_y, NUM_STEPS).items()}
    loss = F.cross_entropy(functional_call(model.learner, reached, (query_x,)), query_y)
    at_the_end = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(reached.values()))])
    assert (gradient - 0.9**NUM_STEPS * at_the_end).abs().max() < 1e-14


# The equations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, (-1.0, 0.0)),
        (1e-6, (-1.0, 0.02202647)),
        (math.exp(-10), (-1.0, 1.0)),
        (1.0, (0.0, 1.0)),
        (-math.exp(2), (0.2, -1.0)),
    ],
)
def test_preprocessing(value, expected):
    actual = preprocessed(torch.tensor(value, dtype=torch.float64))
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-8)
    sizes_and_signs = preprocessed(torch.full((4, 2), value))
    assert sizes_and_signs.shape == (2, 4, 2)
    torch.testing.assert_close(sizes_and_signs[:, 1, 1], torch.tensor(expected), rtol=0, atol=1e-6)


def random_course(num_coordinates, num_steps=4):
    """A start [P], and losses [T] and gradients [T, P] of many magnitudes, as a learner might see them."""
    generator = torch.Generator().manual_seed(1)
    start, losses = (torch.randn(n, dtype=torch.float64, generator=generator) for n in (num_coordinates, num_steps))
    gradients = torch.randn(num_steps, num_coordinates, dtype=torch.float64, generator=generator)
    return start, losses.exp(), gradients * torch.logspace(-7, 1, num_coordinates, dtype=torch.float64)


def end_of(model, start, losses, gradients):
    """theta_T [P] after a course."""
    state = initial_state(start, model.meta_lstm.hidden_size)
    for loss, gradient in zip(losses, gradients, strict=True):
        state = model.meta_lstm(state, loss, gradient)
    return state.point


@pytest.mark.parametrize("gate_recursion", ["values", "pre_activations"])
def test_a_course_is_that_of_the_equations_coordinate_by_coordinate(gate_recursion):
    model = with_large_weights(build(gate_recursion=gate_recursion))
    lstm, size = model.meta_lstm, model.meta_lstm.hidden_size
    cell = nn.LSTMCell(4, size, dtype=torch.float64)
    with torch.no_grad():
        cell.weight_ih.copy_(lstm.weight[:, :4])
        cell.weight_hh.copy_(lstm.weight[:, 4:])
        cell.bias_ih.copy_(lstm.bias)
        cell.bias_hh.zero_()
    (w_i, w_f), (b_i, b_f) = lstm.gate_weight, lstm.gate_bias
    start, losses, gradients = random_course(7)
    expected = []
    for coordinate in range(7):
        theta, (i, f), state = start[coordinate], (torch.zeros(2, dtype=torch.float64)), None
        for loss, gradient in zip(losses, gradients[:, coordinate], strict=True):
            state = cell(torch.cat([preprocessed(loss), preprocessed(gradient)])[None], state)
            hidden = state[0][0]
            before = [w @ torch.cat([hidden, torch.stack([theta, g])]) for w, g in ((w_i, i), (w_f, f))]
            before = before[0] + b_i, before[1] + b_f
            gates = [value.sigmoid() for value in before]
            theta = gates[1] * theta - gates[0] * gradient
            i, f = gates if gate_recursion == "values" else before
        expected.append(theta)
    actual = end_of(model, start, losses, gradients)
    torch.testing.assert_close(actual, torch.stack(expected), rtol=0, atol=1e-13)


def test_the_two_recursions_of_the_gates_differ():
    ends = [
        end_of(with_large_weights(build(gate_recursion=recursion)), *random_course(7))
        for recursion in ("values", "pre_activations")
    ]
    assert (ends[0] - ends[1]).abs().max() > 1e-3


def test_permuted_coordinates_end_permuted():
    model, (start, losses, gradients) = with_large_weights(build()), random_course(50)
    order = torch.randperm(50)
    end = end_of(model, start, losses, gradients)
    torch.testing.assert_close(end_of(model, start[order], losses, gradients[:, order]), end[order], rtol=0, atol=1e-14)
    assert not torch.allclose(end_of(model, start, losses, gradients[:, order]), end)


# The meta-gradient -------------------------------------------------------------------------------------


def slopes(model, episode, step=1e-6):
    """Slopes of the meta-loss along elements of W_I and b_F and random directions: exact and by central differences."""
    parameters = list(model.parameters())
    gradient = flat_gradient(model.training_losses(episode)["loss"], model)
    centre = nn.utils.parameters_to_vector(parameters).detach()
    torch.manual_seed(1)
    lstm, directions = model.meta_lstm, []
    for chosen in (lstm.gate_weight, lstm.gate_bias, lstm.weight, None):
        parts = [torch.randn_like(p) if chosen is None or p is chosen else torch.zeros_like(p) for p in parameters]
        directions.append(torch.cat([part.flatten() for part in parts]))
    directions = F.normalize(torch.stack(directions))

    def loss(point):
        nn.utils.vector_to_parameters(point, parameters)
        with torch.no_grad():
            return model.training_losses(episode)["loss"]

    numerical = [(loss(centre + step * d) - loss(centre - step * d)) / (2 * step) for d in directions]
    nn.utils.vector_to_parameters(centre, parameters)
    return directions @ gradient, torch.stack(numerical)


def freeze_gradients(model, episode):
    """Make the model take the current losses and gradients of its support as constants."""
    courses, support_gradient = [], model.support_gradient
    model.support_gradient = lambda *inputs: courses.append(support_gradient(*inputs)) or courses[-1]
    with torch.no_grad():
        model.training_losses(episode)
    numbers = iter(range(10**6))
    model.support_gradient = lambda *_: courses[next(numbers) % len(courses)]


@pytest.mark.parametrize(("backbone", "norm"), [("conv4-32", "episode"), ("mlp-20", "none")])
def test_meta_gradient_is_that_of_central_differences_with_constant_gradients(backbone, norm, episode):
    model = with_large_weights(build(backbone=backbone, norm=norm, task_parallel="loop"))
    exact, numerical_of_all = slopes(model, episode)
    freeze_gradients(model, episode)
    exact_of_frozen, numerical = slopes(model, episode)
    assert torch.equal(exact, exact_of_frozen)
    assert ((exact - numerical) / numerical).abs().max() < 1e-5
    assert ((exact - numerical_of_all) / numerical_of_all).abs().min() > 1e-3


# The start ---------------------------------------------------------------------------------------------


def test_meta_weights_start_small_with_gates_of_gradient_descent():
    for seed in range(3):
        torch.manual_seed(seed)
        lstm = LSTMMetaLearner().meta_lstm
        for weights in (lstm.weight, lstm.bias, lstm.gate_weight):
            assert -0.01 <= weights.min() < -0.005 < 0.005 < weights.max() <= 0.01
        b_i, b_f = lstm.gate_bias.tolist()
        assert -5 <= b_i <= -4 and 4 <= b_f <= 5


def test_the_start_is_the_learners_own_parameters_and_a_checkpoint_holds_it(task):
    model = build()
    points = points_of(model, *task[:2])
    assert torch.equal(points[0], model.learner.point())
    assert {f"learner.{name}" for name, _ in model.learner.named_parameters()} <= model.state_dict().keys()


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_meta_learner_lowers_the_loss_of_a_separable_task(seed):
    torch.manual_seed(seed)
    model = LSTMMetaLearner(num_ways=2, image_shape=(1, 2, 2), backbone="mlp-16", norm="none").double()
    images, labels = torch.randn(20, 1, 2, 2, dtype=torch.float64), torch.arange(20) % 2
    images[:, 0, 0, 0] = 2.0 * labels - 1
    points = points_of(model, images, labels)
    losses = [model.support_gradient(point.detach(), images, labels)[0] for point in points]
    assert losses[-1] < losses[0]


# Norm episode ------------------------------------------------------------------------------------------


def with_torchs_batch_norms(module, momentum, eps):
    for name, child in module.named_children():
        if isinstance(child, EpisodicBatchNorm2d):
            setattr(module, name, nn.BatchNorm2d(child.weight.numel(), eps, momentum, dtype=torch.float64))
        else:
            with_torchs_batch_norms(child, momentum, eps)
    return module


def batch_norms(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_queries_are_normalised_by_their_batch_in_training_and_by_what_the_support_left_at_test(task_parallel, episode):
    model = build(norm_momentum=0.7, norm_eps=1e-2, task_parallel=task_parallel)
    for support_x, support_y, query_x, _, logits in zip(*episode[:4], model.eval()(episode), strict=True):
        points = points_of(model, support_x, support_y)
        reference = with_torchs_batch_norms(build().learner, momentum=0.7, eps=1e-2)
        for number, point in enumerate(points[:-1]):
            for layer in batch_norms(reference):
                layer.momentum = 0.7 if number else 1.0
            reference.load_state_dict(model.learner.parameters_at(point), strict=False)
            reference.train()(support_x)
        reference.load_state_dict(model.learner.parameters_at(points[-1]), strict=False)
        torch.testing.assert_close(logits, reference.eval()(query_x), rtol=0, atol=1e-12)
        in_training = model.train().query_logits(support_x, support_y, query_x, NUM_WAYS)
        torch.testing.assert_close(in_training, reference.train()(query_x), rtol=0, atol=1e-12)
        model.eval()


def test_steps_are_the_same_in_training_and_at_test(task):
    training, test = (build().train(mode).adapted(*task[:2], NUM_STEPS) for mode in (True, False))
    for name, value in training.items():
        assert torch.equal(value, test[name])


def test_no_statistic_is_kept():
    model = build()
    assert [name for name, _ in model.learner.named_buffers()] == []
    assert {layer.mode for layer in episodic_norms(model)} == {"episode"}


@pytest.mark.parametrize("norm", ["episode", "group"])
@pytest.mark.parametrize("training", [True, False])
def test_the_curve_goes_from_the_start_to_the_logits(training, norm, task):
    model = build(norm=norm).train(training)
    curve = model.adaptation_curve(*task[:3], NUM_WAYS)
    assert curve.shape == (NUM_STEPS + 1, len(task[2]), NUM_WAYS)
    assert torch.equal(curve[-1], model.query_logits(*task[:3], NUM_WAYS))
    for num_steps in (0, 1):
        model.num_inner_steps = model.num_inner_steps_test = num_steps
        assert torch.equal(curve[num_steps], model.query_logits(*task[:3], NUM_WAYS))
    if training or norm == "group":
        model.learner.to(memory_format=torch.channels_last)  # the layout in which points become parameters
        assert torch.equal(curve[0], model.learner(task[2]))


# Training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("max_gradient_norm", "before", "after"), [(0.25, 3.0, 0.25), (0.25, 0.2, 0.2), (0, 3.0, 3.0)])
def test_the_gradient_of_all_that_is_learned_is_clipped_together(max_gradient_norm, before, after):
    model = build(max_gradient_norm=max_gradient_norm)
    model.trainer = quiet_trainer()
    parameters = list(model.parameters())
    assert {id(parameter) for parameter in model.learner.parameters()} < {id(parameter) for parameter in parameters}
    length = math.sqrt(sum(parameter.numel() for parameter in parameters))
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, before / length)
    model.configure_gradient_clipping(torch.optim.Adam(parameters), None, None)
    norm = torch.stack([parameter.grad.norm() for parameter in parameters]).norm().item()
    assert norm == pytest.approx(after, rel=1e-4)


def test_training_on_sinusoid_lowers_the_error():
    torch.manual_seed(0)
    data = Sinusoid(num_shots=10, num_queries=10, tasks_per_batch=4, batches_per_epoch=100, num_val_episodes=50)
    network = {"num_ways": 1, "image_shape": data.image_shape, "backbone": "mlp-40-40", "norm": "none"}
    model = LSTMMetaLearner(**network, num_inner_steps=5, learning_rate=5e-3)
    trainer = quiet_trainer(max_epochs=1)
    before = trainer.validate(model, datamodule=data, verbose=False)[0]["val/mse"]
    trainer.fit(model, datamodule=data)
    after = trainer.validate(model, datamodule=data, verbose=False)[0]["val/mse"]
    assert after < 0.85 * before


def test_training_without_steps_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        build(num_inner_steps=0)


def test_defaults_are_those_of_one_shot():
    model = LSTMMetaLearner()
    assert (model.num_inner_steps, model.num_inner_steps_test, model.norm_momentum) == (12, 12, 0.9)
    assert {layer.eps for layer in episodic_norms(model)} == {1e-3}
    assert model.norm_mode == "episode"
