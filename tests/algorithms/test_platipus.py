"""PLATIPUS against MAML, its definitions and finite differences in float64; and the ranking of its uncertainty."""

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, random_episode
from pytorch_lightning import seed_everything
from quiet_trainer import quiet_trainer
from torch import distributed, nn
from torch.nn import functional as F

from fewshot_pl.algorithms import MAML, PLATIPUS, ProtoNet
from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError

NORMS = ["transductive", "running", "support", "group"]
GAUSSIANS = ["gamma_p", "gamma_q", "log_variance_p", "log_variance_q"]
NO_VARIANCE = -700.0  # log of a variance: a deviation of 1e-152 changes nothing in float64
pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")


def build(algorithm=PLATIPUS, **arguments):
    """A PLATIPUS, or a MAML, of two mild inner steps, with the same weights at every call."""
    torch.manual_seed(0)
    defaults = {"num_ways": NUM_WAYS, "image_shape": IMAGE_SHAPE, "backbone": "conv4-32", "inner_lr": 0.05}
    return algorithm(**{**defaults, "num_inner_steps": 2, **arguments}).double()


def without_variance(monkeypatch, **arguments):
    """A PLATIPUS whose Gaussians are points."""
    monkeypatch.setattr(PLATIPUS, "log_variance_range", (NO_VARIANCE, 2.0))
    model = build(**arguments)
    for parameter in (model.log_variance_p, model.log_variance_q):
        torch.nn.init.constant_(parameter, NO_VARIANCE)
    return model


def tasks_of(episode):
    return zip(*episode[:4], strict=True)


def mean_after_step(model, x, y, gamma):
    """mu - gamma grad L(mu; x, y) [P], the mean of p or of q."""
    loss = NUM_WAYS * F.cross_entropy(model.learner(x), y)
    slopes = torch.autograd.grad(loss, list(model.learner.parameters()))
    return model.learner.point() - gamma * torch.cat([slope.flatten() for slope in slopes])


# MAML is a special case ------------------------------------------------------------------------------


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_training_without_variance_and_steps_of_gamma_is_maml(norm, first_order, episode, monkeypatch):
    options = {"norm": norm, "first_order": first_order}
    ours = without_variance(monkeypatch, initial_gamma=0.0, kl_weight=0.0, **options)
    maml = build(MAML, **options)
    losses = [model.training_losses(episode)["loss"] for model in (ours, maml)]
    assert torch.equal(*losses)
    ours_gradient = torch.autograd.grad(losses[0], list(ours.learner.parameters()))
    maml_gradient = torch.autograd.grad(losses[1], list(maml.learner.parameters()))
    # Exact in first order; in second order the same terms are summed in another order.
    torch.testing.assert_close(ours_gradient, maml_gradient, rtol=0, atol=0 if first_order else 2e-15)


@pytest.mark.parametrize("reduction", ["sum_over_shots", "mean"])
@pytest.mark.parametrize("norm", NORMS)
def test_test_without_variance_is_maml_with_a_first_step_of_gamma(norm, reduction, episode, monkeypatch):
    options = {"norm": norm, "inner_loss_reduction": reduction}
    ours, maml = without_variance(monkeypatch, num_samples=3, **options), build(MAML, **options).eval()
    torch.nn.init.uniform_(ours.gamma_p, 0.0, 0.2)
    sizes = ours.learner.parameters_at(ours.gamma_p)
    for support_x, support_y, query_x, _ in tasks_of(episode):
        theta = dict(maml.learner.named_parameters())
        logits = maml.learner(support_x)
        loss = F.cross_entropy(logits, support_y) * (NUM_WAYS if reduction == "sum_over_shots" else 1)
        slopes = torch.autograd.grad(loss, list(theta.values()))
        first = {name: theta[name] - sizes[name] * slope for name, slope in zip(theta, slopes, strict=True)}
        expected = maml.logits_at(maml.adapted_from(first, support_x, support_y, 2), support_x, query_x)
        for sampled in ours.eval().sampled_outputs(support_x, support_y, query_x):
            torch.testing.assert_close(sampled, expected, rtol=0, atol=1e-12)
        answer = ours.query_logits(support_x, support_y, query_x, NUM_WAYS)
        torch.testing.assert_close(answer, expected.log_softmax(-1), rtol=0, atol=1e-12)
        most_probable = ours.logits_at(ours.adapted(support_x, support_y, 2), support_x, query_x)
        torch.testing.assert_close(most_probable, expected, rtol=0, atol=1e-12)


# The divergence and the gradient ---------------------------------------------------------------------


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_no_divergence_where_support_and_query_are_the_same(task_parallel, episode):
    model = build(task_parallel=task_parallel)
    same = Episode(episode.support_x, episode.support_y, episode.support_x, episode.support_y)
    assert model.training_losses(same)["kl"] == 0
    assert model.training_losses(episode)["kl"] > 0


@pytest.mark.parametrize("num_samples", [1, 3])
def test_training_adapts_samples_of_q_to_the_support(num_samples, episode):
    model = build(num_training_samples=num_samples, initial_gamma=0.03, initial_deviation=0.1)
    with torch.no_grad():  # else q would have the step sizes and deviations of p
        for parameter, most in ((model.gamma_q, 0.03), (model.log_variance_q, 1.0)):
            parameter.add_(most * torch.rand_like(parameter))
    torch.manual_seed(3)
    losses = model.training_losses(episode)
    torch.manual_seed(3)
    noise = model.task_noise(episode.num_tasks, num_samples, len(model.log_variance_q))
    deviation = model.log_variance_q.detach().exp().sqrt()
    expected = []
    for task, (support_x, support_y, query_x, query_y) in enumerate(tasks_of(episode)):
        mean_q = mean_after_step(model, query_x, query_y, model.gamma_q).detach()
        for sample in range(num_samples):
            theta = model.learner.parameters_at(mean_q + deviation * noise[task, sample])
            phi = model.adapted_from(theta, support_x, support_y, 2)
            expected.append(F.cross_entropy(model.logits_at(phi, support_x, query_x), query_y))
    torch.testing.assert_close(losses["query_loss"], torch.stack(expected).mean(), rtol=0, atol=1e-12)


def test_divergence_is_the_sum_over_all_parameters(episode):
    model = build(initial_gamma=0.03, initial_deviation=0.1, kl_weight=0.5)
    divergences = []
    for support_x, support_y, query_x, query_y in tasks_of(episode):
        means = [mean_after_step(model, x, y, 0.03) for x, y in ((support_x, support_y), (query_x, query_y))]
        p, q = (torch.distributions.Normal(mean, 0.1) for mean in means)
        divergences.append(torch.distributions.kl_divergence(q, p).sum())
    losses = model.training_losses(episode)
    # float32 held the deviation before the model was made double.
    torch.testing.assert_close(losses["kl"], torch.stack(divergences).mean(), rtol=1e-6, atol=0)
    torch.testing.assert_close(losses["loss"], losses["query_loss"] + 0.5 * losses["kl"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("gamma", ["per_parameter", "scalar"])
@pytest.mark.parametrize("backbone", ["mlp-8-8-tanh", "conv4-32"])
def test_gradient_of_every_meta_parameter_is_that_of_central_differences(backbone, gamma, task_parallel, episode):
    options = {"norm": "none"} if backbone.startswith("mlp") else {"norm": "transductive"}
    model = build(backbone=backbone, gamma=gamma, task_parallel=task_parallel, num_training_samples=2, **options)
    with torch.no_grad():
        for name in GAUSSIANS:  # all different, and KL no smaller than the loss
            getattr(model, name).mul_(1 + 0.1 * torch.rand_like(getattr(model, name)))

    def loss():
        torch.manual_seed(3)  # the same noise
        return model.training_losses(episode)["loss"]

    parameters = {"mu": list(model.learner.parameters()), **{name: [getattr(model, name)] for name in GAUSSIANS}}
    loss().backward()
    for name, group in parameters.items():
        gradient = torch.cat([parameter.grad.flatten() for parameter in group])
        directions = torch.stack([gradient, torch.randn_like(gradient)])
        directions /= directions.norm(dim=1, keepdim=True)
        numerical = torch.stack([slope_along(loss, group, direction) for direction in directions])
        torch.testing.assert_close(directions @ gradient, numerical, rtol=1e-5, atol=1e-7, msg=name)


def slope_along(loss, parameters, direction, step=1e-7):
    """The slope of a loss along a direction of some parameters, by central differences."""
    centre = torch.nn.utils.parameters_to_vector(parameters).detach()
    values = []
    for point in (centre + step * direction, centre - step * direction, centre):
        torch.nn.utils.vector_to_parameters(point, parameters)
        with torch.no_grad():
            values.append(loss())
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("known_ways", [None, NUM_WAYS])
def test_memory_holds_one_task_where_all_are_known_to_have_labels(known_ways, episode):
    losses = build().training_losses(episode._replace(known_ways=known_ways))
    assert losses["loss"].requires_grad
    assert losses["query_loss"].requires_grad == (known_ways is None)  # one by one, its graph has been freed


def test_first_order_gradient_differs_but_reaches_gamma(episode):
    by_order = []
    for first_order in (False, True):
        model = build(first_order=first_order)
        torch.manual_seed(3)
        model.training_losses(episode)["loss"].backward()
        assert model.gamma_p.grad.any() and model.gamma_q.grad.any()
        by_order.append(torch.cat([parameter.grad.flatten() for parameter in model.learner.parameters()]))
    assert (by_order[1] - by_order[0]).norm() > 0.05 * by_order[0].norm()


# Samples ---------------------------------------------------------------------------------------------


def test_probabilities_are_the_mean_of_the_samples(episode):
    model = build(num_samples=4, initial_deviation=0.1).eval()
    task = [tensor[0] for tensor in episode[:3]]
    sampled, logits = model.sampled_outputs(*task), model.query_logits(*task, NUM_WAYS)
    assert sampled.shape == (4, len(task[2]), NUM_WAYS)
    assert sampled.std(0).min() > 0
    torch.testing.assert_close(logits.exp(), sampled.softmax(-1).mean(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(len(logits)).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(model.class_log_probabilities(logits), logits, rtol=0, atol=1e-12)


def test_one_sample_predicts_by_itself(episode):
    model = build(num_samples=1).eval()
    task = [tensor[0] for tensor in episode[:3]]
    expected = model.sampled_outputs(*task)[0].log_softmax(-1)
    torch.testing.assert_close(model.query_logits(*task, NUM_WAYS), expected, rtol=0, atol=1e-12)


def test_regression_predicts_the_mean_of_the_samples():
    model = build(num_ways=1, image_shape=(1, 1, 1), backbone="mlp-16-bias4", norm="none", num_samples=4).eval()
    support_x, support_y, query_x, _ = (tensor[0].double() for tensor in curves(num_shots=3, num_tasks=1)[:4])
    sampled = model.sampled_outputs(support_x, support_y, query_x)
    torch.testing.assert_close(model.query_logits(support_x, support_y, query_x, 1), sampled.mean(0))


def test_samples_are_p_of_the_stated_deviation(episode):
    model = build(num_samples=400, initial_deviation=0.1, num_inner_steps=0, backbone="mlp-4", norm="none").eval()
    task = [tensor[0] for tensor in episode[:2]]
    thetas = []
    model.logits_at = lambda phi, support_x, query_x: thetas.append(phi) or support_x.sum()
    model.sampled_outputs(*task, task[0])
    points = torch.stack([torch.cat([value.flatten() for value in theta.values()]) for theta in thetas])
    mean = torch.cat([value.flatten() for value in model.adapted(*task, 0).values()])
    deviations = (points - mean).square().mean(0).sqrt()
    torch.testing.assert_close(deviations.mean(), torch.tensor(0.1).double(), rtol=0.01, atol=0)
    assert (points - mean).mean(0).abs().max() < 5 * 0.1 / 400**0.5


def test_adaptation_curve_ends_in_the_prediction(episode):
    model = build(num_inner_steps_test=3).eval()
    task = [tensor[0] for tensor in episode[:3]]
    curve = model.adaptation_curve(*task, NUM_WAYS)
    assert curve.shape == (4, len(task[2]), NUM_WAYS)
    assert torch.equal(curve[-1], model.query_logits(*task, NUM_WAYS))
    first_step = build(num_inner_steps_test=0).eval().query_logits(*task, NUM_WAYS)
    torch.testing.assert_close(curve[0], first_step, rtol=0, atol=1e-12)


def test_step_sizes_are_told_by_layer():
    sizes = build(gamma="scalar", initial_gamma=0.2).learned_step_sizes
    assert {name: size.item() for name, size in sizes.items()} == pytest.approx({"gamma_p": 0.2, "gamma_q": 0.2})
    model = build()
    with torch.no_grad():
        model.gamma_q.copy_(torch.arange(len(model.gamma_q)))
    sizes = model.learned_step_sizes
    layers = dict(model.learner.named_parameters())
    assert sizes.keys() == {f"{name}/{layer}" for name in ("gamma_p", "gamma_q") for layer in layers}
    assert all(sizes[f"gamma_q/{layer}"].shape == layers[layer].shape for layer in layers)
    in_order = torch.cat([sizes[f"gamma_q/{layer}"].flatten() for layer in layers])
    assert torch.equal(in_order, torch.arange(len(model.gamma_q), dtype=in_order.dtype))


def test_log_variances_come_back_from_their_limits():
    model = build(num_samples=1, learning_rate=0.01, backbone="mlp-8", norm="none").float()
    with torch.no_grad():
        model.log_variance_q[0], model.log_variance_q[1] = -11.0, 5.0
    fit(model, max_steps=1)
    assert model.log_variance_q[:2].tolist() == [-10, 2]
    fit(model, max_steps=1)
    assert model.log_variance_q[0] > -10
    assert model.log_variance_q[1] < 2


def test_no_gaussian_stands_over_running_statistics():
    model = build(norm="running")
    num_parameters = sum(parameter.numel() for parameter in model.learner.parameters())
    assert len(model.log_variance_p) == len(model.log_variance_q) == num_parameters
    assert build(gamma="scalar").gamma_p.shape == ()


@pytest.mark.parametrize("count", ["num_samples", "num_training_samples"])
def test_no_samples_are_refused(count):
    with pytest.raises(InputError, match=f"--model.{count}"):
        build(**{count: 0})


# From a trained MAML ---------------------------------------------------------------------------------


def fit(model, episodes=(), path=None, **arguments):
    """Train on a list of episodes or a data module, and save a checkpoint where a path is given."""
    fitting = quiet_trainer(**{"max_epochs": 1, **arguments})
    if isinstance(episodes, Sinusoid):
        fitting.fit(model, datamodule=episodes)
    else:
        fitting.fit(model, torch.utils.data.DataLoader(episodes or [random_episode()], batch_size=None))
    if path:
        fitting.save_checkpoint(path)


@pytest.mark.parametrize("norm", ["transductive", "running"])
def test_starts_from_a_mamls_checkpoint_and_then_needs_it_no_more(norm, tmp_path):
    fit(maml := build(MAML, norm=norm).float(), path=tmp_path / "maml.ckpt")
    ours = build(norm=norm, init_from=str(tmp_path / "maml.ckpt")).float()
    taken = ours.learner.state_dict()
    assert all(torch.equal(taken[name], value) for name, value in maml.learner.state_dict().items())

    fit(ours, path=tmp_path / "ours.ckpt")
    (tmp_path / "maml.ckpt").unlink()
    loaded = PLATIPUS.load_from_checkpoint(tmp_path / "ours.ckpt", weights_only=True)
    assert loaded.hparams["init_from"] is None
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in ours.state_dict().items())


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "start.ckpt"
    with pytest.raises(InputError, match=r"there is no checkpoint .*start\.ckpt"):
        build(init_from=str(path))
    path.write_bytes(b"no checkpoint")
    with pytest.raises(InputError, match="is no checkpoint"):
        build(init_from=str(path))
    torch.save({"weights": torch.ones(3)}, path)
    with pytest.raises(InputError, match="is no checkpoint"):
        build(init_from=str(path))
    fit(ProtoNet(image_shape=IMAGE_SHAPE, backbone="conv4-32"), path=path)
    with pytest.raises(InputError, match="holds a ProtoNet"):
        build(init_from=str(path))
    fit(build(MAML, num_ways=3).float(), path=path)
    told = "trained with backbone conv4-32, norm transductive, norm_eps null, num_ways 3: pass the same --model flags"
    for other in ({"num_ways": 5}, {"norm": "support"}, {"norm_eps": 0.001}):
        with pytest.raises(InputError, match=told):
            build(init_from=str(path), **{"num_ways": 3, **other})


# How its uncertainty ranks ---------------------------------------------------------------------------


def curves(num_shots, num_tasks=100, num_queries=100):
    """Tasks of the mixture of noisy sinusoids and lines."""
    size = {"num_shots": num_shots, "num_queries": num_queries, "tasks_per_batch": num_tasks}
    data = Sinusoid(lines=True, noise=0.3, num_val_episodes=num_tasks, eval_tasks_per_batch=num_tasks, **size)
    data.setup("validate")
    return next(iter(data.val_dataloader()))


def predicted_deviations(model, episode):
    """The deviations of each task's sampled functions at its support points [T, K] and at its queries [T, Q]."""

    def deviations(model, support_x, support_y, query_x):
        return model.sampled_outputs(support_x, support_y, torch.cat([support_x, query_x])).std(0).squeeze(-1)

    with torch.no_grad():
        spread = model.map_tasks(deviations, *episode[:3])[0]
    num_shots = episode.support_x.shape[1]
    return spread[:, :num_shots], spread[:, num_shots:]


def test_sampled_functions_spread_away_from_the_support_and_less_with_more_of_it():
    """After 150 steps the paper's settings, on a network small enough for seconds, rank the uncertainty as they should.

    Over 100 fresh tasks, the predicted deviation at a single support point is a small part of that further than 2 from
    it, and the mean deviation over the x axis shrinks from 1 shot to 3 and to 10.
    """
    seed_everything(0, verbose=False)
    data = Sinusoid(num_shots=5, num_queries=20, lines=True, noise=0.3, batches_per_epoch=150, seed=0)
    data.val_dataloader = None
    network = {"num_ways": 1, "image_shape": (1, 1, 1), "backbone": "mlp-40-40-bias20", "norm": "none"}
    paper = {"inner_lr": 1e-3, "num_inner_steps": 5, "kl_weight": 0.1}
    model = PLATIPUS(**network, **paper, learning_rate=3e-3, task_parallel="vmap")
    fit(model, data)
    model.eval()

    means = []
    for num_shots in (1, 3, 10):
        at_support, elsewhere = predicted_deviations(model, episode := curves(num_shots))
        distances = (episode.query_x.flatten(1)[:, :, None] - episode.support_x.flatten(1)[:, None]).abs().amin(2)
        assert elsewhere[distances > 2].mean() > 2 * at_support.mean()
        means.append(elsewhere.mean())
    assert means[1] < 0.9 * means[0]
    assert means[2] < 0.7 * means[0]


def test_several_devices_do_not_send_each_other_the_fixed_numbers():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        sent = nn.parallel.DistributedDataParallel(model := build()).modules_buffers
    finally:
        distributed.destroy_process_group()
    assert model.sample_noise.numel() and not any(buffer is model.sample_noise for buffer in sent)
