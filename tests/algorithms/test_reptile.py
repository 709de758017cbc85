"""Reptile against its definitions, its Taylor expansion and torch's own Adam, in float64."""

import copy
from functools import partial

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, flat_gradient, random_episode
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging, LambdaCallback
from quiet_trainer import quiet_trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fewshot_pl.algorithms import Reptile
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.functional.inner_adam import sgd_step
from fewshot_pl.functional.inner_loop import adapted_parameters
from fewshot_pl.functional.mini_batches import descended

NUM_IMAGES = NUM_WAYS * (2 + 3)  # of a random episode's task, support and query
WHOLE_TASK = {"inner_batch_size": NUM_IMAGES}
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def build(**arguments):
    """A Reptile of four inner steps, with the same weights at every call.

    Group norm, as biases before batch norm have only rounding errors for gradients, which Adam's first steps blow up.
    """
    torch.manual_seed(0)
    sizes = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "backbone": "conv4-32", "norm": "group"}
    steps = {"inner_batch_size": 4, "num_inner_steps": 4, "inner_batch_size_test": 4, "num_inner_steps_test": 4}
    return Reptile(**{**sizes, **steps, **arguments}).double()


def tasks_of(episode):
    """The images and labels of each task, support and query together."""
    for support_x, support_y, query_x, query_y in zip(*episode[:4], strict=True):
        yield torch.cat([support_x, query_x]), torch.cat([support_y, query_y])


def vector(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def fit(model, episodes, **arguments):
    """Train once on the episodes, each a batch."""
    trainer = quiet_trainer(**{"max_epochs": 1, **arguments})
    trainer.fit(model, DataLoader(episodes, batch_size=None))
    return trainer


# The outer gradient ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("norm", ["transductive", "group"])
def test_one_step_of_sgd_is_joint_training(norm, task_parallel, episode):
    sgd = {"inner_optimizer": "sgd", "inner_lr": 0.1, "num_inner_steps": 1, "inner_loss_reduction": "mean"}
    model = build(norm=norm, task_parallel=task_parallel, **sgd, **WHOLE_TASK)
    joint = sum(F.cross_entropy(model.learner(x), y) for x, y in tasks_of(episode)) / episode.num_tasks
    expected = flat_gradient(joint, model)
    gradient = flat_gradient(model.training_losses(episode)["loss"], model) / 0.1
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-14)


def test_steps_of_sgd_give_the_sum_of_gradients_along_the_path(episode):
    model = build(inner_optimizer="sgd", inner_lr=0.01)
    torch.manual_seed(5)
    gradient = flat_gradient(model.training_losses(episode)["loss"], model) / 0.01
    torch.manual_seed(5)
    batches, expected = model._shuffled(episode.num_tasks, NUM_IMAGES), 0
    for (x, y), task_batches in zip(tasks_of(episode), batches, strict=True):
        learner = copy.deepcopy(model.learner)
        for batch in task_batches:
            loss = F.cross_entropy(learner(x[batch]), y[batch], reduction="sum")
            step = torch.autograd.grad(loss, list(learner.parameters()))
            expected = expected + vector(step) / episode.num_tasks
            with torch.no_grad():
                for parameter, change in zip(learner.parameters(), step, strict=True):
                    parameter -= 0.01 * change
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


def test_loss_is_half_the_squared_distance(episode):
    model = build()
    one_task = episode.tasks(slice(1))
    loss = model.training_losses(one_task)["loss"]
    torch.testing.assert_close(loss, flat_gradient(loss, model).square().sum() / 2)


def taylor_residuals(alpha):
    """How far the gradients of MAML, FOMAML and Reptile are from their expansions to first order (section 5.1)."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(4, 5), (5,), (5, 3), (3,)]
    theta = torch.cat([torch.randn(size, dtype=torch.float64, generator=generator).flatten() for size in sizes])
    images = torch.randn(2, 8, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(3, (2, 8), generator=generator)

    def loss(point, batch):
        pieces = torch.split(point, [torch.Size(size).numel() for size in sizes])
        w1, b1, w2, b2 = (piece.view(size) for piece, size in zip(pieces, sizes, strict=True))
        return F.cross_entropy(torch.tanh(images[batch] @ w1 + b1) @ w2 + b2, labels[batch])

    g1, g2 = (torch.func.grad(loss)(theta, batch) for batch in (0, 1))
    h1, h2 = (torch.func.hessian(loss)(theta, batch) for batch in (0, 1))

    def after_one(theta):
        return adapted_parameters(lambda p: loss(p["theta"], 0), {"theta": theta}, alpha, num_steps=1)["theta"]

    maml = torch.func.grad(lambda theta: loss(after_one(theta), 1))(theta)
    fomaml = torch.func.grad(loss)(after_one(theta), 1)
    step = partial(sgd_step, lr=alpha)
    gradient_at = torch.func.grad(lambda point, batch: (loss(point, batch), labels[batch]), has_aux=True)
    phi = descended(gradient_at, theta, (0, 1), step, None)[0]
    expansions = {
        "maml": (maml, g2 - alpha * h2 @ g1 - alpha * h1 @ g2),
        "fomaml": (fomaml, g2 - alpha * h2 @ g1),
        "reptile": ((theta - phi) / alpha, g1 + g2 - alpha * h2 @ g1),
    }
    return {name: (exact - expansion).norm().item() for name, (exact, expansion) in expansions.items()}


def test_taylor_expansions_are_right_to_second_order():
    coarse, fine = taylor_residuals(2e-3), taylor_residuals(1e-3)
    for name in coarse:
        assert coarse[name] / fine[name] == pytest.approx(4, abs=0.3), name


# The inner Adam --------------------------------------------------------------------------------------


def torchs_adam(learner, model):
    return torch.optim.Adam(learner.parameters(), lr=model.inner_lr, betas=(0.0, 0.999))


def descended_by(optimizer, learner, x, y, batches):
    """phi after steps of a torch optimiser on mini-batches of a task."""
    for batch in batches:
        optimizer.zero_grad()
        F.cross_entropy(learner(x[batch]), y[batch], reduction="sum").backward()
        optimizer.step()
    return vector(learner.parameters())


def state_of_adam(optimizer, learner):
    """The step count and the second moment [P] of torch's Adam."""
    states = [optimizer.state[parameter] for parameter in learner.parameters()]
    return int(states[0]["step"]), vector(state["exp_avg_sq"] for state in states)


def adam_of_torch(model, episode, sequential):
    """The mean of phi over tasks, and the second moment and step count of torch's Adam, from the model's start."""
    torch.manual_seed(5)
    batches = model._shuffled(episode.num_tasks, NUM_IMAGES)
    learner = copy.deepcopy(model.learner)
    theta = copy.deepcopy(learner.state_dict())
    optimizer = torchs_adam(learner, model)
    phis, moments = [], []
    for (x, y), task_batches in zip(tasks_of(episode), batches, strict=True):
        learner.load_state_dict(theta)
        if not sequential:
            optimizer = torchs_adam(learner, model)
        phis.append(descended_by(optimizer, learner, x, y, task_batches))
        num_steps, moment = state_of_adam(optimizer, learner)
        moments.append(moment)
    moment = moments[-1] if sequential else torch.stack(moments).mean(0)
    return torch.stack(phis).mean(0), moment, num_steps


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("sequential", [False, True])
def test_inner_loop_is_torchs_adam_without_momentum(sequential, task_parallel, episode):
    model = build(sequential=sequential, task_parallel=task_parallel)
    phi, second_moment, num_steps = adam_of_torch(model, episode, sequential)
    torch.manual_seed(5)
    gradient = flat_gradient(model.training_losses(episode)["loss"], model)
    torch.testing.assert_close(vector(model.parameters()) - gradient, phi, rtol=0, atol=1e-11)
    assert not model.inner_second_moment.any(), "the state is taken over with the outer step"
    model.update_inner_state()
    torch.testing.assert_close(model.inner_second_moment, second_moment, rtol=1e-9, atol=1e-16)
    assert num_steps == 4 * (episode.num_tasks if sequential else 1)
    assert model.inner_total_weight == pytest.approx(1 - 0.999**num_steps, rel=1e-12)


def test_one_adam_of_torch_serves_all_outer_steps_and_starts_every_evaluation(episode):
    """In the code's way, ``sequential``: loaded with theta before each task, it keeps its state."""
    model = build(sequential=True)
    learner = copy.deepcopy(model.learner)
    optimizer = torchs_adam(learner, model)
    for step in range(2):
        torch.manual_seed(step)
        batches = model._shuffled(episode.num_tasks, NUM_IMAGES)
        phis = []
        for (x, y), task_batches in zip(tasks_of(episode), batches, strict=True):
            learner.load_state_dict(model.learner.state_dict())
            phis.append(descended_by(optimizer, learner, x, y, task_batches))
        torch.manual_seed(step)
        gradient = flat_gradient(model.training_losses(episode)["loss"], model)
        after = vector(model.parameters()) - gradient
        torch.testing.assert_close(after, torch.stack(phis).mean(0), rtol=0, atol=1e-11)
        model.update_inner_state()
        torch.nn.utils.vector_to_parameters(after, model.parameters())
    state, (num_steps, second_moment) = model._inner_state(), state_of_adam(optimizer, learner)
    assert num_steps == 2 * episode.num_tasks * 4
    assert state.total_weight == pytest.approx(1 - 0.999**num_steps, rel=1e-12)
    torch.testing.assert_close(state.second_moment, second_moment, rtol=1e-9, atol=1e-16)

    kept = copy.deepcopy(optimizer.state_dict())
    for support_x, support_y, *_ in zip(*episode[:4], strict=True):
        learner.load_state_dict(model.learner.state_dict())
        optimizer.load_state_dict(copy.deepcopy(kept))  # which it would go on from, in place
        phi = descended_by(optimizer, learner, support_x, support_y, model._mini_batches(support_x, 4))
        adapted = model.eval().adapted(support_x, support_y, 4)
        torch.testing.assert_close(vector(adapted.values()), phi, rtol=0, atol=1e-11)


def test_second_moment_goes_on_from_step_to_step(episode):
    model = build(**WHOLE_TASK)
    fit(model, [episode] * 3)
    assert model.inner_total_weight == pytest.approx(1 - 0.999 ** (3 * 4), rel=1e-12)
    fresh = build(**WHOLE_TASK)
    fresh.learner.load_state_dict(model.learner.state_dict())
    assert not torch.allclose(fresh.eval()(episode), model.eval()(episode)), "evaluation starts from it"


def mean_square(model):
    """The mean of squared gradients in Adam's state, without its bias."""
    return model.inner_second_moment / model.inner_total_weight


def test_averaged_weights_start_from_an_average_of_the_steps_of_adam(episode):
    model, steps = build(), []
    noting = LambdaCallback(on_train_batch_end=lambda *_: steps.append(mean_square(model)))
    fit(model, [episode] * 6, callbacks=[noting, EMAWeightAveraging(decay=0.9)])  # which replace the weights at the end
    lowest, highest = torch.stack(steps).aminmax(dim=0)
    assert (mean_square(model) >= lowest * (1 - 1e-9)).all() and (mean_square(model) <= highest * (1 + 1e-9)).all()


def test_tasks_taking_turns_differ_from_tasks_side_by_side(episode):
    losses = [build(sequential=sequential).training_losses(episode)["loss"] for sequential in (False, True)]
    assert not torch.isclose(*losses, rtol=1e-3)


@pytest.mark.parametrize("norm", ["transductive", "support"])
def test_loop_equals_vmap_once_the_second_moment_is_warm(norm, episode):
    results = []
    for task_parallel in ("loop", "vmap"):
        model = build(norm=norm, task_parallel=task_parallel)
        model.inner_second_moment.fill_(1)
        model.inner_total_weight.fill_(1)
        torch.manual_seed(5)
        loss = model.training_losses(episode)["loss"]
        gradient = flat_gradient(loss, model)
        model.update_inner_state()
        results.append((loss, gradient, model.inner_second_moment, model.eval()(episode)))
    torch.testing.assert_close(*results, rtol=0, atol=1e-12)


# The outer step --------------------------------------------------------------------------------------


def test_whole_outer_step_goes_to_phi(episode):
    one_task = episode.tasks(slice(1))
    model = build(**WHOLE_TASK)  # any order of a whole batch is the same batch
    phi = adam_of_torch(model, one_task, sequential=False)[0]
    fit(model, [one_task])
    torch.testing.assert_close(vector(model.parameters()), phi, rtol=0, atol=1e-11)


def test_outer_step_of_zero_leaves_theta(episode):
    model = build(learning_rate=0.0)
    fit(model, [episode] * 2)
    for parameter, start in zip(model.parameters(), build().parameters(), strict=True):
        assert torch.equal(parameter, start)


class LearningRates(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, *_):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(("halve_every", "expected"), [(0, [0.8, 0.6, 0.4, 0.2, 0]), (2, [0.8, 0.8, 0.4, 0.4, 0.2])])
def test_outer_step_falls_linearly_to_zero_unless_halved(halve_every, expected, episode):
    rates = LearningRates()
    model = build(learning_rate=0.8, lr_halve_every=halve_every, num_inner_steps=1)
    trainer = fit(model, [episode] * 4, callbacks=[rates])
    assert [*rates.seen, trainer.optimizers[0].param_groups[0]["lr"]] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("norm", ["group", "transductive"])
def test_accumulating_batches_is_one_batch_of_all_their_tasks(norm):
    episode = random_episode(num_tasks=4, dtype=torch.float64)
    halves = [episode.tasks(part) for part in (slice(2), slice(2, 4))]
    whole, accumulated = build(norm=norm), build(norm=norm)
    for model in (whole, accumulated):
        model.inner_second_moment.fill_(1)
    torch.manual_seed(5)
    fit(whole, [episode])
    torch.manual_seed(5)
    fit(accumulated, halves, accumulate_grad_batches=2)
    torch.testing.assert_close(state_of(accumulated), state_of(whole), rtol=0, atol=1e-12)


def test_what_tasks_before_an_interruption_left_is_no_part_of_the_next_training(episode):
    model, interrupted = build(), build()
    interrupted.training_losses(episode)  # and no outer step
    for one in (model, interrupted):
        torch.manual_seed(5)
        fit(one, [episode])
    torch.testing.assert_close(state_of(interrupted), state_of(model), rtol=0, atol=0)


def test_training_shuffles_are_a_function_of_the_task():
    model = build()
    fit(model, [random_episode(num_tasks=4, dtype=torch.float64)])
    tasks = model._shuffled(4, NUM_IMAGES)
    assert torch.equal(tasks, model._shuffled(4, NUM_IMAGES))
    assert len({tuple(batches.flatten().tolist()) for batches in tasks}) == 4


# Tasks -----------------------------------------------------------------------------------------------


def test_support_and_query_are_trained_on_alike(episode):
    support_x, support_y, query_x, query_y = episode[:4]
    swapped = Episode(query_x, query_y, support_x, support_y)
    losses = [build(**WHOLE_TASK).training_losses(each)["loss"] for each in (episode, swapped)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-10)


@pytest.mark.parametrize("num_steps", [0, 5])
def test_the_curve_is_that_of_ever_more_steps(num_steps, episode):
    model = build(num_inner_steps_test=num_steps)
    fit(model, [episode] * 2, limit_val_batches=0)  # so that Adam's state is not the initial one
    model.double().eval()
    task = [tensor[0] for tensor in episode[:3]]
    steps = range(num_steps + 1)
    expected = [model.logits_at(model.adapted(*task[:2], step), task[0], task[2]) for step in steps]
    assert torch.equal(model.adaptation_curve(*task, NUM_WAYS), torch.stack(expected))


@pytest.mark.parametrize("norm", ["transductive", "support", "group", "running"])
def test_adaptation_leaves_parameters_and_buffers(norm, episode):
    model = build(norm=norm)
    before = state_of(model)
    model.train().query_logits(*(tensor[0] for tensor in episode[:3]), NUM_WAYS)
    model.eval()(episode)
    if norm != "running":  # there a training pass moves the running statistics, as it is meant to
        model.train().training_losses(episode)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_evaluation_between_batches_does_not_touch_what_tasks_left(episode):
    once, twice = build(), build()
    for model in (once, twice):
        torch.manual_seed(5)
        model.train().training_losses(episode)
    twice.eval()(episode)
    for model in (once, twice):
        model.update_inner_state()
    assert torch.equal(once.inner_second_moment, twice.inner_second_moment)


def test_evaluation_is_the_same_whatever_torchs_random_state(episode):
    model = build().eval()
    first = model(episode)
    torch.manual_seed(99)
    assert torch.equal(model(episode), first)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_queries_pass_together_or_each_with_the_support(task_parallel, episode):
    no_steps = {"norm": "transductive", "num_inner_steps_test": 0, "task_parallel": task_parallel}
    together, alone = build(**no_steps).eval(), build(**no_steps, per_query=True).eval()
    for logits, each, (support_x, _, query_x, _) in zip(
        together(episode), alone(episode), zip(*episode[:4], strict=True), strict=True
    ):
        torch.testing.assert_close(logits, together.learner(query_x), rtol=0, atol=1e-12)
        for row, query in zip(each, query_x, strict=True):
            with_support = together.learner(torch.cat([support_x, query[None]]))[-1]
            torch.testing.assert_close(row, with_support, rtol=0, atol=1e-12)
    assert together.norm_mode == "transductive" != alone.norm_mode


def test_per_query_matters_to_the_transductive_norm_alone(episode):
    models = [build(norm="support", per_query=per_query).eval() for per_query in (False, True)]
    assert torch.equal(models[0](episode), models[1](episode))
    assert models[0].norm_mode == models[1].norm_mode == "support"


def test_inner_steps_lower_the_loss_of_the_support(episode):
    model = build(num_inner_steps_test=30).eval()
    x, y = episode.support_x[0], episode.support_y[0]
    logits = model.query_logits(x, y, x, NUM_WAYS)
    assert F.cross_entropy(logits, y) < 0.7 * F.cross_entropy(model.learner(x), y)


def test_tasks_of_other_ways_than_the_heads_are_refused():
    episode = random_episode(num_ways=5, dtype=torch.float64)
    for use in (build(), build().training_losses):
        with pytest.raises(InputError, match=r"head of 3 outputs .* --data.num_ways"):
            use(episode)


@pytest.mark.parametrize("name", ["num_inner_steps", "inner_batch_size", "inner_batch_size_test"])
def test_no_inner_training_at_all_is_refused(name):
    with pytest.raises(InputError, match="at least 1"):
        build(**{name: 0})


def test_default_network_is_that_of_omniglot():
    assert Reptile().learner.head.weight.shape == (5, 256)  # 2x2 maps of 64 channels, flat
