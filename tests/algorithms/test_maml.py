"""MAML's meta-gradient against finite differences, its definitions and learn2learn, in float64."""

import pytest
import torch
from episodes import NUM_WAYS, flat_gradient, random_episode, relative_error
from meta_gradients import build, meta_gradient, plain_torch_twin, slopes
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from fewshot_pl.algorithms import ANIL, BOIL, MAML, PLATIPUS, MetaSGD
from fewshot_pl.backbones import EpisodicBatchNorm2d
from fewshot_pl.errors import InputError

TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}  # atol: rounding errors of losses, divided by the step
NORMS = ["transductive", "running", "support", "group", "layer"]


# The meta-gradient -----------------------------------------------------------------------------------


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("norm", NORMS)
def test_meta_gradient_is_that_of_central_differences(norm, task_parallel, episode):
    exact, numerical = slopes(build(norm=norm, task_parallel=task_parallel), episode)
    torch.testing.assert_close(exact, numerical, **TOLERANCE)


def test_torchs_own_batch_norm_would_fail_that_check(episode, monkeypatch):
    # pytorch/functorch#534. Once torch has fixed it, this fails, and EpisodicBatchNorm2d can always take _fused.
    monkeypatch.setattr(EpisodicBatchNorm2d, "forward", EpisodicBatchNorm2d._fused)
    torch.testing.assert_close(*slopes(build(task_parallel="loop"), episode), **TOLERANCE)
    exact, numerical = slopes(build(task_parallel="vmap"), episode)
    assert relative_error(exact, numerical) > 1e-5


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_first_order_gradient_differs(episode, task_parallel):
    second_order = meta_gradient(build(task_parallel=task_parallel), episode)
    first_order = meta_gradient(build(task_parallel=task_parallel, first_order=True), episode)
    assert relative_error(first_order, second_order) > 0.05


@pytest.mark.parametrize("norm", NORMS)
def test_first_order_gradient_is_that_at_the_adapted_point(norm, episode):
    model = build(norm=norm, first_order=True, task_parallel="loop")
    expected = 0
    for support_x, support_y, query_x, query_y in zip(*episode[:4], strict=True):
        phi = {
            name: p.detach().requires_grad_()
            for name, p in model.adapted(support_x, support_y, model.num_steps).items()
        }
        with torch.no_grad():
            reached = model.query_logits(support_x, support_y, query_x, NUM_WAYS)
        at_phi = build(norm=norm, num_inner_steps=0)
        at_phi.learner.load_state_dict(phi, strict=False)
        logits = at_phi.query_logits(support_x, support_y, query_x, NUM_WAYS)
        torch.testing.assert_close(logits, reached, rtol=1e-12, atol=1e-12)
        expected = expected + flat_gradient(F.cross_entropy(logits, query_y), at_phi) / episode.num_tasks
    torch.testing.assert_close(meta_gradient(model, episode), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("first_order", [False, True])
def test_no_inner_step_is_joint_training(first_order, episode):
    model = build(num_inner_steps=0, first_order=first_order, task_parallel="loop")
    # The queries of each task pass together: they share the statistics of the batch norms.
    logits = torch.cat([model.learner(query_x) for query_x in episode.query_x])
    joint = flat_gradient(F.cross_entropy(logits, episode.query_y.flatten()), model)
    assert torch.equal(meta_gradient(model, episode), joint)


def test_labels_permuted_with_the_head_leave_the_loss(episode):
    model = build()
    order = torch.tensor([2, 0, 1])
    renamed = episode._replace(support_y=order.argsort()[episode.support_y], query_y=order.argsort()[episode.query_y])
    before = model.training_losses(episode)["loss"]
    with torch.no_grad():
        for parameter in model.learner.head.parameters():
            parameter.copy_(parameter[order])
    torch.testing.assert_close(model.training_losses(renamed)["loss"], before, rtol=0, atol=1e-12)


def test_loss_summed_over_shots_is_a_learning_rate_times_the_ways(episode):
    summed = build(inner_loss_reduction="sum_over_shots", inner_lr=0.05)
    mean = build(inner_loss_reduction="mean", inner_lr=0.05 * NUM_WAYS)
    losses = [model.training_losses(episode)["loss"] for model in (summed, mean)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
    assert losses[0] != build(inner_loss_reduction="mean", inner_lr=0.05).training_losses(episode)["loss"]


@pytest.mark.parametrize(("reduction", "factor"), [("sum_over_shots", NUM_WAYS), ("mean", 1)])
def test_shots_of_unequal_classes_are_the_mean_number_of_their_images(reduction, factor, episode):
    model = build(num_inner_steps=1, inner_loss_reduction=reduction)
    support_x, support_y, query_x, _ = (tensor[0] for tensor in episode[:4])
    support_x, support_y = support_x[:-1], support_y[:-1]  # 5 images of 3 classes
    theta = dict(model.learner.named_parameters())
    loss = factor * F.cross_entropy(model.learner(support_x), support_y)
    slopes = torch.autograd.grad(loss, list(theta.values()))
    phi = {name: theta[name] - 0.05 * slope for name, slope in zip(theta, slopes, strict=True)}
    adapted = model.adapted(support_x, support_y, 1)
    torch.testing.assert_close(adapted, phi, rtol=0, atol=1e-12)
    logits = model.query_logits(support_x, support_y, query_x, NUM_WAYS)
    expected = functional_call(model.learner, phi, (query_x,))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)


# learn2learn's MAML ----------------------------------------------------------------------------------


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_meta_gradient_are_learn2learns(first_order, task_parallel, episode):
    from learn2learn.algorithms import MAML as TheirMAML  # noqa: N811 - seconds to import, so only here

    options = {"inner_loss_reduction": "mean", "inner_lr": 0.2}
    ours = build(first_order=first_order, task_parallel=task_parallel, **options)
    theirs = TheirMAML(plain_torch_twin(ours), lr=0.2, first_order=first_order)
    their_losses = []
    for support_x, support_y, query_x, query_y in zip(*episode[:4], strict=True):
        learner = theirs.clone()
        for _ in range(3):
            learner.adapt(F.cross_entropy(learner(support_x), support_y))
        their_losses.append(F.cross_entropy(learner(query_x), query_y))

    our_loss, their_loss = ours.training_losses(episode)["loss"], sum(their_losses) / episode.num_tasks
    torch.testing.assert_close(our_loss, their_loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(flat_gradient(our_loss, ours), flat_gradient(their_loss, theirs), rtol=0, atol=1e-10)


# Settings --------------------------------------------------------------------------------------------


def test_test_steps_count_outside_training_only(episode):
    model = build(num_inner_steps=1, num_inner_steps_test=4)
    torch.testing.assert_close(model.train()(episode), build(num_inner_steps=1).train()(episode))
    torch.testing.assert_close(model.eval()(episode), build(num_inner_steps=4).eval()(episode))
    assert not torch.allclose(model.train()(episode), model.eval()(episode))


def test_adaptation_lowers_the_support_loss(episode):
    model = build()
    task = episode.support_x[0], episode.support_y[0]
    losses = [
        F.cross_entropy(functional_call(model.learner, parameters, task[:1]), task[1])
        for parameters in (dict(model.learner.named_parameters()), model.adapted(*task, 3))
    ]
    assert losses[1] < 0.7 * losses[0]


def test_support_norm_gives_queries_the_statistics_of_the_support(episode):
    model = build(norm="support", num_inner_steps=0)
    support_x, support_y, query_x, _ = (tensor[0] for tensor in episode[:4])
    # With the support as queries, the support's statistics are the transductive ones.
    logits = model.query_logits(support_x, support_y, support_x, NUM_WAYS)
    torch.testing.assert_close(logits, build(norm="transductive").learner(support_x))
    alone = torch.cat([model.query_logits(support_x, support_y, query[None], NUM_WAYS) for query in query_x])
    torch.testing.assert_close(alone, model.query_logits(support_x, support_y, query_x, NUM_WAYS))


def test_tasks_of_other_ways_than_the_heads_are_refused():
    with pytest.raises(InputError, match=r"head of 3 outputs .* --data.num_ways"):
        build()(random_episode(num_ways=5, dtype=torch.float64))


def test_starts_from_xaviers_weights_and_zero_biases():
    learner = build(num_ways=64).learner
    weight = learner.head.weight  # [64, 32]
    bound = (6 / (64 + 32)) ** 0.5
    assert 0.9 * bound < weight.abs().max() <= bound
    assert not learner.head.bias.any()
    assert not learner.backbone.blocks[0].conv.bias.any()


# Steps made again in the backward pass -----------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [MAML, ANIL, BOIL, MetaSGD, PLATIPUS])
@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("norm", NORMS)
def test_steps_made_again_have_the_meta_gradient_of_steps_kept(algorithm, task_parallel, norm, episode):
    def trained(again):
        model = build(algorithm, norm=norm, task_parallel=task_parallel, recompute_inner_steps=again)
        torch.manual_seed(1)  # of PLATIPUS's samples
        loss = model.training_losses(episode)["loss"]
        return loss, flat_gradient(loss, model), torch.cat([torch.zeros(0), *(b.flatten() for b in model.buffers())])

    for value, reference in zip(trained(True), trained(False), strict=True):
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("known_ways", [None, NUM_WAYS])
def test_steps_made_again_train_through_autocast(known_ways):
    def gradient(again):
        model = build(recompute_inner_steps=again, task_parallel="loop").float()
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.training_losses(random_episode()._replace(known_ways=known_ways))["loss"]
        return flat_gradient(loss, model)

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-4, atol=1e-6)


class OfHead(MAML):
    """Adapts the head alone, by a learned learning rate (Raghu et al. 2020)."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.inner_lr = nn.Parameter(torch.tensor(0.1))

    def adapted(self, support_x, support_y, num_steps):
        head = {name: value for name, value in self.learner.named_parameters() if name.startswith("head.")}
        return self.adapted_from(head, support_x, support_y, num_steps)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_what_does_not_adapt_is_trained_through_steps_made_again(task_parallel, episode):
    def gradient(again):
        model = build(OfHead, task_parallel=task_parallel, recompute_inner_steps=again)
        return meta_gradient(model, episode)

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-9, atol=1e-12)


def test_a_network_that_drops_parts_of_itself_cannot_be_computed_again():
    with pytest.raises(InputError, match="resnet12 drops parts of itself at random"):
        MAML(image_shape=(3, 32, 32), backbone="resnet12", recompute_inner_steps=True)


# Frozen weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [MAML, ANIL, BOIL, MetaSGD, PLATIPUS])
def test_a_frozen_model_adapts_as_any(algorithm, episode):
    model = build(algorithm).eval()
    torch.manual_seed(1)  # of PLATIPUS's samples
    expected = model(episode)
    model.freeze()
    torch.manual_seed(1)
    torch.testing.assert_close(model(episode), expected, rtol=0, atol=0)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("num_inner_steps", [0, 2])
@pytest.mark.parametrize("task_parallel", ["auto", "loop", "vmap", "side_by_side"])
def test_what_is_frozen_is_adapted_and_not_learned(task_parallel, num_inner_steps, first_order, episode):
    def gradients(frozen):
        model = build(task_parallel=task_parallel, first_order=first_order, num_inner_steps=num_inner_steps)
        model.learner.backbone.requires_grad_(not frozen)
        model.training_losses(episode._replace(known_ways=NUM_WAYS))["loss"].backward()
        return [parameter.grad for parameter in model.learner.parameters()]

    *of_backbone, weight, bias = gradients(frozen=True)
    assert of_backbone == [None] * len(of_backbone)
    torch.testing.assert_close([weight, bias], gradients(frozen=False)[-2:], rtol=1e-9, atol=1e-12)


# Regression ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner_loss_reduction", ["mean", "sum_over_shots"])
def test_inner_steps_of_a_regression_descend_the_mean_squared_error(inner_loss_reduction):
    model = build(num_ways=2, inner_loss_reduction=inner_loss_reduction)
    outputs, targets = torch.randn(2, 5, 2)
    torch.testing.assert_close(model.inner_loss(outputs, targets), F.mse_loss(outputs, targets))
