"""MetaGAN against its base learners, its definition, finite differences, and two moons, in float64."""

import math

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, random_episode
from pytorch_lightning import Trainer
from torch import nn
from torch.nn import functional as F

from fewshot_pl.algorithms import MAML, FewShotAlgorithm, MetaGAN, ProtoNet, RelationNet, Reptile
from fewshot_pl.algorithms.discriminators import SupportSet
from fewshot_pl.backbones.learner import initialise_xavier
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.functional.adversarial import fake_losses, generator_losses, real_losses

FLOAT64 = torch.float64
INNER = {"inner_lr": 0.05, "num_inner_steps": 2}
NORMS = ["transductive", "running", "support", "group", "layer"]
CLASSIFIERS = ["maml", "relation_net"]


def build(classifier="maml", **arguments):
    """A small MetaGAN with the same weights at every call."""
    torch.manual_seed(0)
    of_classifier = {
        "maml": {"num_ways": NUM_WAYS, "backbone": "conv4-32", **INNER},
        "relation_net": {"backbone": "conv4-maps"},
    }[classifier]
    defaults = {"image_shape": IMAGE_SHAPE, "generator_width": 4, "classifier": classifier, **of_classifier}
    return MetaGAN(**{**defaults, **arguments}).double()


@pytest.fixture(params=CLASSIFIERS)
def model(request):
    return build(request.param)


def losses_of(model, episode):
    """The losses with the same noise at every call."""
    torch.manual_seed(1)
    return model.training_losses(episode)


def gradients(loss, parameters):
    """The gradient with respect to each parameter; None if the loss does not depend on it."""
    return torch.autograd.grad(loss, [*parameters], retain_graph=True, allow_unused=True)


def players(model):
    """The parameters of D, and those of G and E."""
    return [*model.discriminator.parameters()], [*model.generator.parameters(), *model.task_encoder.parameters()]


def without_labels(episode, which=slice(None)):
    """The episode with the labels of some of its tasks unknown."""
    support_y, query_y = episode.support_y.clone(), episode.query_y.clone()
    support_y[which], query_y[which] = -100, -100
    return episode._replace(support_y=support_y, query_y=query_y)


def with_unlabelled(episode, num_images=4):
    generator = torch.Generator().manual_seed(7)
    shape = episode.num_tasks, num_images, *IMAGE_SHAPE
    return episode._replace(
        support_u=torch.randn(*shape, dtype=FLOAT64, generator=generator),
        query_u=torch.randn(*shape, dtype=FLOAT64, generator=generator),
    )


# The base learners -----------------------------------------------------------------------------------


class RelationNetOfCrossEntropy(RelationNet):
    query_loss = FewShotAlgorithm.query_loss


def base_learner(classifier, **arguments):
    torch.manual_seed(0)
    if classifier == "relation_net":
        return RelationNetOfCrossEntropy(image_shape=IMAGE_SHAPE, **arguments).double()
    maml = {"image_shape": IMAGE_SHAPE, "num_ways": NUM_WAYS, "backbone": "conv4-32", **INNER}
    return MAML(**{**maml, **arguments}).double()


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_without_its_weights_it_is_the_base_learner_to_the_bit(classifier, norm, task_parallel, episode):
    arguments = {"norm": norm, "task_parallel": task_parallel}
    base, model = base_learner(classifier, **arguments), build(classifier, real_weight=0, fake_weight=0, **arguments)
    expected, losses = base.training_losses(episode), model.training_losses(episode)
    assert losses.keys() == expected.keys() and torch.equal(losses["loss"], expected["loss"])
    expected["loss"].backward()
    losses["loss"].backward()
    discriminator, generator = players(model)
    for ours, theirs in zip(discriminator, base.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    assert all(parameter.grad is None for parameter in generator)
    assert torch.equal(model.eval()(episode), base.eval()(episode))


@pytest.mark.parametrize("arguments", [{"first_order": True}, {"inner_loss_reduction": "mean", "inner_lr": 0.2}])
def test_without_its_weights_it_is_maml_in_every_form(arguments, episode):
    base, model = base_learner("maml", **arguments), build(real_weight=0, fake_weight=0, **arguments)
    assert torch.equal(model.training_losses(episode)["loss"], base.training_losses(episode)["loss"])


def test_with_its_weights_it_is_not(episode):
    assert not torch.allclose(build().eval()(episode), base_learner("maml").eval()(episode))


# The definition --------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["transductive", "group"])  # in both, the images of a batch pass as they are
@pytest.mark.parametrize("semi_supervised", [False, True])
def test_losses_are_those_of_the_definition(norm, semi_supervised, episode):
    episode = with_unlabelled(episode) if semi_supervised else episode
    model = build(norm=norm, num_inner_steps=1, real_weight=0.7, fake_weight=0.4, inner_loss_reduction="mean")
    losses = losses_of(model, episode)
    torch.manual_seed(1)
    noise = model.task_noise(2, NUM_WAYS * 5, 100).double()
    learner, num_support, expected = model.discriminator.learner, NUM_WAYS * 2, torch.zeros(4, dtype=FLOAT64)
    for task, (support_x, support_y, query_x, query_y) in enumerate(zip(*episode[:4], strict=True)):
        support_u, query_u = (support_x, query_x) if not semi_supervised else (episode[4][task], episode[5][task])
        code = model.task_encoder(support_x)
        support_fakes, query_fakes = model.generator(noise[task], code).split([num_support, len(query_x)])
        inner = F.cross_entropy(learner(support_x), support_y) + 0.7 * real_losses(learner(support_u)).mean()
        inner = inner + 0.4 * fake_losses(learner(support_fakes)).mean()
        theta = dict(learner.named_parameters())
        phi = dict(zip(theta, torch.autograd.grad(inner, [*theta.values()]), strict=True))
        phi = {name: theta[name] - model.discriminator.inner_lr * phi[name] for name in theta}
        on_queries, on_unlabelled, on_fakes = (
            torch.func.functional_call(learner, phi, (images,)) for images in (query_x, query_u, query_fakes)
        )
        parts = F.cross_entropy(on_queries, query_y), real_losses(on_unlabelled).mean(), fake_losses(on_fakes).mean()
        expected += torch.stack([*parts, generator_losses(on_fakes).mean()]).detach() / 2
    names = ("supervised_loss", "real_loss", "fake_loss", "generator_loss")
    torch.testing.assert_close(torch.stack([losses[name] for name in names]), expected, rtol=0, atol=1e-12)
    in_all = expected @ torch.tensor([1, 0.7, 0.4, 1], dtype=FLOAT64)
    torch.testing.assert_close(losses["loss"], in_all, rtol=0, atol=1e-12)
    torch.testing.assert_close(losses["discriminator_loss"], in_all - expected[3], rtol=0, atol=1e-12)


def test_labels_permuted_with_the_head_leave_the_losses(episode):
    model, order = build(), torch.tensor([2, 0, 1])
    renamed = episode._replace(support_y=order.argsort()[episode.support_y], query_y=order.argsort()[episode.query_y])
    before = losses_of(model, episode)
    with torch.no_grad():
        for parameter in model.discriminator.learner.head.parameters():
            parameter.copy_(parameter[order])
    torch.testing.assert_close(losses_of(model, renamed), before, rtol=0, atol=1e-11)


def test_permuted_classes_permute_the_logits_of_relations(episode):
    model, order = build("relation_net"), torch.tensor([2, 0, 1])
    renamed = episode._replace(support_y=order.argsort()[episode.support_y])
    torch.testing.assert_close(model(renamed), model(episode)[..., order], rtol=0, atol=1e-12)


def test_generated_images_know_no_labels_and_no_order(model, episode):
    support_x = episode.support_x[0]
    images = model.generated_images(support_x)
    assert images.shape == support_x.shape and torch.equal(images, model.generated_images(support_x))
    torch.testing.assert_close(model.generated_images(support_x.flip(0)), images, rtol=0, atol=1e-13)
    assert not torch.allclose(model.generated_images(episode.support_x[1]), images)


# The two players -------------------------------------------------------------------------------------


def test_each_loss_is_a_constant_to_the_other_player(model, episode):
    losses = losses_of(model, episode)
    discriminator, generator = players(model)
    assert all(gradient is None for gradient in gradients(losses["generator_loss"], discriminator))
    assert all(gradient is None for gradient in gradients(losses["discriminator_loss"], generator))
    for own, parameters in (("discriminator_loss", discriminator), ("generator_loss", generator)):
        alone, of_sum = gradients(losses[own], parameters), gradients(losses["loss"], parameters)
        assert all(torch.equal(one, other) for one, other in zip(alone, of_sum, strict=True))


def test_a_step_of_the_discriminator_helps_it_and_leaves_the_generator(model, episode):
    parameters, others = players(model)
    before, kept = losses_of(model, episode), [parameter.clone() for parameter in others]
    before["discriminator_loss"].backward()
    torch.optim.SGD(parameters, lr=1e-4).step()
    after = losses_of(model, episode)
    assert after["fake_loss"] < before["fake_loss"]
    assert after["discriminator_loss"] < before["discriminator_loss"]
    assert all(torch.equal(parameter, copy) for parameter, copy in zip(others, kept, strict=True))


def test_a_step_of_the_generator_helps_it_and_leaves_the_discriminator(model, episode, monkeypatch):
    others, parameters = players(model)
    adapted, phis = model.discriminator.adapted, []
    monkeypatch.setattr(model.discriminator, "adapted", lambda *task: phis.append(adapted(*task)) or phis[-1])
    before, kept = losses_of(model, episode), [parameter.clone() for parameter in others]
    before["generator_loss"].backward()
    torch.optim.SGD(parameters, lr=1e-3).step()
    # The new images would lead D elsewhere in its inner loop: it stays where it was.
    monkeypatch.setattr(model.discriminator, "adapted", lambda *task: phis.pop(0))
    assert losses_of(model, episode)["generator_loss"] < before["generator_loss"]
    assert all(torch.equal(parameter, copy) for parameter, copy in zip(others, kept, strict=True))


def test_one_adam_has_a_group_for_each_player():
    model = build(learning_rate=0.003, generator_learning_rate=0.002, beta1=0.4, beta2=0.8)
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["params"] for group in optimizer.param_groups] == [*players(model)]
    assert [group["lr"] for group in optimizer.param_groups] == [0.003, 0.002]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.4, 0.8)}
    assert sum(len(player) for player in players(model)) == len([*model.parameters()])
    halved = build(lr_halve_every=5).configure_optimizers()["lr_scheduler"]
    assert (halved["scheduler"].step_size, halved["interval"]) == (5, "step")
    assert build().configure_optimizers().param_groups[1]["betas"] == (0.5, 0.9)


@pytest.mark.parametrize("max_gradient_norm", [0.5, 0])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_gradients_of_the_discriminators_networks_are_clipped_apart(classifier, max_gradient_norm):
    model = build(classifier, max_gradient_norm=max_gradient_norm)
    model.trainer = Trainer(logger=False, accelerator="cpu")
    d = model.discriminator
    clipped = [d.learner] if classifier == "maml" else [d.backbone, d.head]
    norms = [*zip(clipped, (3.0, 0.25), strict=False), (model.generator, 3.0), (model.task_encoder, 3.0)]
    for network, norm in norms:
        length = math.sqrt(sum(parameter.numel() for parameter in network.parameters()))
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, norm / length)
    model.configure_gradient_clipping(torch.optim.SGD(model.parameters(), lr=1.0), None, None)
    for network, norm in norms:
        after = torch.stack([parameter.grad.norm() for parameter in network.parameters()]).norm().item()
        most = max_gradient_norm if network in clipped and max_gradient_norm else norm
        assert after == pytest.approx(min(norm, most), rel=1e-4)


# Finite differences ----------------------------------------------------------------------------------


def slopes(loss, parameters, step=1e-7):
    """The slopes of a loss along its gradient and two random directions: exact, and by central differences."""
    gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss(), parameters)])
    directions = torch.stack([gradient, *torch.randn(2, len(gradient), dtype=FLOAT64)])
    directions /= directions.norm(dim=1, keepdim=True)
    centre = nn.utils.parameters_to_vector(parameters).detach()

    def loss_at(point):
        nn.utils.vector_to_parameters(point, parameters)
        with torch.no_grad():
            return loss()

    numerical = [(loss_at(centre + step * d) - loss_at(centre - step * d)) / (2 * step) for d in directions]
    nn.utils.vector_to_parameters(centre, parameters)
    return directions @ gradient, torch.stack(numerical)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_discriminators_gradient_is_that_of_central_differences(norm, task_parallel, episode):
    model = build(norm=norm, task_parallel=task_parallel)
    exact, numerical = slopes(lambda: losses_of(model, episode)["discriminator_loss"], players(model)[0])
    assert (exact - numerical).norm() < 1e-6 * numerical.norm()


def test_the_generators_gradient_is_that_of_central_differences_at_a_constant_phi(episode):
    model, (support_x, support_y) = build(), (tensor[0] for tensor in episode[:2])
    torch.manual_seed(1)
    noise = model.task_noise(1, NUM_WAYS * 5, 100)[0].double()
    fakes = model.generator(noise[: NUM_WAYS * 2], model.task_encoder(support_x)).detach()
    support = SupportSet(support_x, support_y, NUM_WAYS, None, fakes)
    phi = {name: value.detach() for name, value in model.discriminator.adapted(support, 2).items()}

    def generator_loss():
        drawn = model.generator(noise[NUM_WAYS * 2 :], model.task_encoder(support_x))
        return generator_losses(model.discriminator.logits_at(phi, support, drawn)).mean()

    parameters = players(model)[1]
    exact, numerical = slopes(generator_loss, parameters)
    assert (exact - numerical).norm() < 1e-6 * numerical.norm()
    ours = gradients(losses_of(model, episode.tasks(slice(1)))["generator_loss"], parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(generator_loss(), parameters), rtol=0, atol=1e-13)


# Semi-supervised -------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_tasks_without_labels_add_to_all_but_the_supervised_loss(classifier, task_parallel, monkeypatch):
    model = build(classifier, task_parallel=task_parallel)
    whole = with_unlabelled(random_episode(dtype=FLOAT64, num_tasks=3))
    noise = torch.randn(3, NUM_WAYS * 5, 100)

    def losses(which):
        monkeypatch.setattr(model, "task_noise", lambda *shape: noise[which])
        return model.training_losses(without_labels(whole, slice(1, 2)).tasks(which))

    mixed, labelled, unlabelled = (losses(which) for which in ([0, 1, 2], [0, 2], [1]))
    assert unlabelled.keys() == labelled.keys() - {"supervised_loss", "accuracy"}
    for name in ("loss", "discriminator_loss", "real_loss", "fake_loss", "generator_loss"):
        expected = (2 * labelled[name] + unlabelled[name]) / 3
        torch.testing.assert_close(mixed[name], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixed["supervised_loss"], labelled["supervised_loss"], rtol=0, atol=1e-12)
    in_all = sum(mixed[name] for name in ("real_loss", "fake_loss", "generator_loss"))
    torch.testing.assert_close(mixed["loss"], in_all + 2 / 3 * mixed["supervised_loss"], rtol=0, atol=1e-12)
    unlabelled["loss"].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("without", [slice(0), slice(1), slice(2)])
def test_accumulated_tasks_make_the_step_of_one_batch(without, classifier, monkeypatch):
    model, noise = build(classifier), torch.randn(2, NUM_WAYS * 5, 100)
    episode = without_labels(random_episode(dtype=FLOAT64), without)

    def gradient(which):
        monkeypatch.setattr(model, "task_noise", lambda *shape: noise[which])
        return gradients(model.training_losses(episode.tasks(which))["loss"], model.parameters())

    of_both, *of_each = (gradient(which) for which in ([0, 1], [0], [1]))
    accumulated = tuple((first + second) / 2 for first, second in zip(*of_each, strict=True))
    torch.testing.assert_close(accumulated, of_both, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", ["transductive", "running"])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
@pytest.mark.parametrize("without", [slice(0), slice(1, 2), slice(3)])
def test_tasks_one_by_one_are_those_at_once(without, classifier, norm):
    episode = without_labels(with_unlabelled(random_episode(dtype=FLOAT64, num_tasks=3)), without)
    known = episode._replace(known_ways=NUM_WAYS, labelled_tasks=episode.is_labelled)
    models = [build(classifier, norm=norm) for _ in range(2)]
    assert models[0].accumulates_task_gradients(known) and not models[1].accumulates_task_gradients(episode)
    one_by_one, at_once = losses_of(models[0], known), losses_of(models[1], episode)
    assert one_by_one.keys() == at_once.keys()
    for name, value in one_by_one.items():
        torch.testing.assert_close(value.detach(), at_once[name].detach(), rtol=0, atol=1e-12)
    assert not one_by_one["discriminator_loss"].requires_grad  # its graph has been freed
    ours, theirs = (
        gradients(losses["loss"], model.parameters())
        for losses, model in zip((one_by_one, at_once), models, strict=True)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    for ours, theirs in zip(models[0].buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_task_without_labels_adapts_to_its_images_being_real(episode):
    model, task = build(norm="group", fake_weight=0, num_inner_steps=1), without_labels(episode).tasks(slice(1))
    learner = model.discriminator.learner
    loss = NUM_WAYS * real_losses(learner(task.support_x[0])).mean()
    gradient = torch.autograd.grad(loss, [*learner.parameters()])
    phi = {name: p - 0.05 * g for (name, p), g in zip(learner.named_parameters(), gradient, strict=True)}
    expected = real_losses(torch.func.functional_call(learner, phi, (task.query_x[0],))).mean()
    torch.testing.assert_close(losses_of(model, task)["real_loss"], expected, rtol=0, atol=1e-12)
    assert (expected - real_losses(learner(task.query_x[0])).mean()).abs() > 1e-3


def test_an_unlabelled_image_of_a_relation_net_is_compared_with_every_support_image(episode):
    model, task = build("relation_net"), without_labels(episode).tasks(slice(1))
    support_x, query_x = task.support_x[0], task.query_x[0]
    backbone, head = model.discriminator.backbone, model.discriminator.head
    logits = head.pair_logits(backbone(support_x), backbone(query_x))
    assert logits.shape == (len(query_x), len(support_x))
    torch.testing.assert_close(losses_of(model, task)["real_loss"], real_losses(logits).mean(), rtol=0, atol=1e-12)


def test_unlabelled_images_of_the_support_adapt_at_test(episode):
    model, more = build().eval(), with_unlabelled(episode)
    logits = model(more)
    assert not torch.allclose(logits, model(episode))
    for task in range(2):
        one = [tensor[task] for tensor in more[:6]]
        alone = model.query_logits(*one[:3], NUM_WAYS, one[4])
        torch.testing.assert_close(alone, logits[task], rtol=0, atol=1e-12)
    no_inner_loop = build("relation_net").eval()
    assert torch.equal(no_inner_loop(more), no_inner_loop(episode))


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_unlabelled_images_of_the_support_are_for_an_inner_loop(classifier, episode):
    model, more = build(classifier), with_unlabelled(episode)
    loss, of_other_support, of_other_queries = (
        losses_of(model, images)["real_loss"]
        for images in (more, more._replace(support_u=-more.support_u), more._replace(query_u=-more.query_u))
    )
    assert torch.equal(of_other_support, loss) == (classifier == "relation_net")
    assert not torch.equal(of_other_queries, loss)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_the_same_images_as_unlabelled_are_the_supervised_setting(task_parallel, episode):
    model = build(task_parallel=task_parallel)
    doubled = episode._replace(support_u=episode.support_x, query_u=episode.query_x)
    torch.testing.assert_close(losses_of(model, doubled), losses_of(model, episode), rtol=0, atol=1e-11)


@pytest.mark.parametrize("algorithm", [ProtoNet, RelationNet, MAML, Reptile])
def test_other_algorithms_refuse_tasks_without_labels(algorithm):
    heads = {"num_ways": NUM_WAYS} if algorithm in (MAML, Reptile) else {}
    episode = without_labels(random_episode(), slice(1))
    with pytest.raises(InputError, match=rf"{algorithm.__name__} cannot use tasks without labels.*unlabelled_tasks"):
        algorithm(image_shape=IMAGE_SHAPE, **heads).training_losses(episode)


def test_without_a_game_it_refuses_them_too(episode):
    with pytest.raises(InputError, match="without labels"):
        build(real_weight=0, fake_weight=0).training_losses(without_labels(episode))


def test_relations_need_maps_and_take_any_number_of_ways():
    with pytest.raises(InputError, match=r"pass --model.backbone conv4-maps"):
        build("relation_net", backbone="conv4")
    assert build("relation_net")(random_episode(num_ways=5, dtype=FLOAT64)).shape[-1] == 5
    with pytest.raises(InputError, match=r"head of 3 outputs"):
        build().training_losses(random_episode(num_ways=5, dtype=FLOAT64))


# Two moons -------------------------------------------------------------------------------------------


def moons(num_tasks, num_per_class, generator):
    """Support and query of tasks of two half circles, turned and shifted: points [T, 2n, 2, 1, 1], labels [T, 2n]."""
    turn = 2 * torch.pi * torch.rand(num_tasks, 1, generator=generator)
    turns = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).view(num_tasks, 2, 2)
    shift = 0.5 * torch.randn(num_tasks, 1, 2, generator=generator)
    for _ in ("support", "query"):
        angles = torch.pi * torch.rand(num_tasks, 2, num_per_class, generator=generator)
        x, y = angles.cos(), angles.sin()
        x[:, 1], y[:, 1] = 1 - x[:, 1], 0.5 - y[:, 1]
        points = torch.stack([x - 0.5, y - 0.25], -1).flatten(1, 2) @ turns.mT + shift
        yield points[..., None, None], torch.arange(2).repeat_interleave(num_per_class).expand(num_tasks, -1)


class PointGenerator(nn.Module):
    """Maps noise and a task's code to points of the plane [n, 2, 1, 1], within 4 of its middle."""

    def __init__(self, num_inputs):
        super().__init__()
        widths = [(num_inputs, 64), (64, 64), (64, 2)]
        self.linears = nn.ModuleList(nn.Linear(*width) for width in widths)
        initialise_xavier(self)

    def forward(self, noise, code):
        points = torch.cat([noise, code.expand(len(noise), -1)], 1)
        for linear in self.linears[:2]:
            points = F.leaky_relu(linear(points), 0.2)
        return 4 * self.linears[2](points).tanh()[..., None, None]


def test_two_moons_are_told_from_noise_far_from_them():
    torch.manual_seed(0)
    plane = {"image_shape": (2, 1, 1), "backbone": "mlp-40-40-tanh", "norm": "none", "task_parallel": "vmap"}
    # G is slow: if it won, it would stay near the moons, and nothing would be said of the plane far from them.
    speeds = {"inner_lr": 0.05, "learning_rate": 3e-3, "generator_learning_rate": 1e-4}
    model, generator = MetaGAN(num_ways=2, generator_width=8, **plane, **speeds), torch.Generator().manual_seed(0)
    model.generator = PointGenerator(100 + 4 * 8)
    optimizer = model.configure_optimizers()

    def tasks(num_tasks):
        (support_x, support_y), (query_x, query_y) = moons(num_tasks, 20, generator)
        return Episode(support_x, support_y, query_x, query_y)

    for _ in range(300):
        optimizer.zero_grad()
        model.training_losses(tasks(8))["loss"].backward()
        optimizer.step()

    fresh = tasks(20)
    noise = 8 * torch.rand(20, 500, 2, 1, 1, generator=generator) - 4
    distances = torch.cdist(noise.flatten(2), torch.cat([fresh.support_x, fresh.query_x], 1).flatten(2))
    far = distances.amin(-1) > 1
    model.eval()
    on_noise, on_data = model(fresh._replace(query_x=noise)), model(fresh)
    assert (on_noise[far].logsumexp(-1) < 0).float().mean() > 0.85  # p(generated) > 1/2
    assert (on_data.logsumexp(-1) < 0).float().mean() < 0.35
    assert (on_data.argmax(-1) == fresh.query_y).float().mean() > 0.7
