"""ANIL against MAML with steps of the head alone, and against learn2learn, in float64."""

import pytest
import torch
from episodes import NUM_WAYS, flat_gradient, random_episode
from meta_gradients import build, meta_gradient, plain_torch_twin, slopes
from torch.nn import functional as F
from torch.nn.utils import prune

from fewshot_pl.algorithms import ANIL, MAML

NORMS = ["transductive", "running", "support", "group"]


class StepsOfHead(MAML):
    """The slow way: each step passes the whole network, and changes the head alone."""

    def adapted(self, support_x, support_y, num_steps):
        head = {name: value for name, value in self.learner.named_parameters() if name.startswith("head.")}
        return {**dict(self.learner.named_parameters()), **self.adapted_from(head, support_x, support_y, num_steps)}


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_features_passed_once_give_the_loss_and_gradient_of_passes_in_each_step(
    norm, first_order, task_parallel, episode
):
    settings = {"norm": norm, "first_order": first_order, "task_parallel": task_parallel}
    ours, slow = build(ANIL, **settings), build(StepsOfHead, **settings)
    losses = [model.training_losses(episode)["loss"] for model in (ours, slow)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-12)
    gradients = [flat_gradient(loss, model) for loss, model in zip(losses, (ours, slow), strict=True)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(slow.named_buffers()), rtol=0, atol=1e-12)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(episode), slow.eval()(episode), rtol=0, atol=1e-12)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_meta_gradient_is_that_of_central_differences(task_parallel, episode):
    exact, numerical = slopes(build(ANIL, task_parallel=task_parallel), episode)
    torch.testing.assert_close(exact, numerical, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_meta_gradient_are_learn2learns(first_order, episode):
    from learn2learn.algorithms import MAML as TheirMAML  # noqa: N811 - seconds to import, so only here

    ours = build(ANIL, first_order=first_order, inner_loss_reduction="mean", inner_lr=0.2)
    twin = plain_torch_twin(ours)
    body, head = twin[:-1], TheirMAML(twin[-1], lr=0.2, first_order=first_order)
    their_losses = []
    for support_x, support_y, query_x, query_y in zip(*episode[:4], strict=True):
        learner, features = head.clone(), body(support_x)
        for _ in range(3):
            learner.adapt(F.cross_entropy(learner(features.detach() if first_order else features), support_y))
        their_losses.append(F.cross_entropy(learner(body(query_x)), query_y))

    our_loss, their_loss = ours.training_losses(episode)["loss"], sum(their_losses) / episode.num_tasks
    torch.testing.assert_close(our_loss, their_loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(flat_gradient(our_loss, ours), flat_gradient(their_loss, twin), rtol=0, atol=1e-10)


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_a_task_changes_the_head_and_no_bit_of_the_body(task_parallel, episode):
    model = build(ANIL, task_parallel=task_parallel)
    start = dict(model.learner.named_parameters())
    adapted = model.adapted(episode.support_x[0], episode.support_y[0], 3)
    assert adapted.keys() == start.keys()
    assert {name for name, value in adapted.items() if not torch.equal(value, start[name])} == {
        "head.weight",
        "head.bias",
    }


def test_the_support_passes_the_body_once(monkeypatch, episode):
    model, passes = build(ANIL, task_parallel="loop"), []
    body = type(model.learner.backbone)
    forward = body.forward
    monkeypatch.setattr(body, "forward", lambda self, images: passes.append(len(images)) or forward(self, images))
    model.query_logits(*(tensor[0] for tensor in episode[:3]), NUM_WAYS)
    assert passes == [len(episode.support_x[0]), len(episode.query_x[0])]


def test_the_body_learns_through_the_steps_unless_they_are_constants(episode):
    second_order, first_order = (meta_gradient(build(ANIL, first_order=first), episode) for first in (False, True))
    body = slice(0, -33 * NUM_WAYS)  # 32 features and a bias for each class
    assert (second_order[body] - first_order[body]).norm() > 0.05 * second_order[body].norm()


def test_steps_on_features_of_half_precision_know_no_autocast():
    model = build(ANIL).float()
    support_x, support_y = (tensor[0] for tensor in random_episode()[:2])
    with torch.autocast("cpu", torch.bfloat16):
        adapted, features = model.adapted(support_x, support_y, 2), model.learner.backbone(support_x)
    assert features.dtype == torch.bfloat16
    head = {name: value for name, value in model.learner.named_parameters() if name.startswith("head.")}
    expected = model._adapted_head(head, features.float(), support_y, 2)
    assert all(torch.equal(adapted[name], value) for name, value in expected.items())


def test_a_pruned_learner_adapts_what_is_left_of_its_head(episode):
    def gradient(algorithm):
        model = build(algorithm, task_parallel="loop")
        prune.l1_unstructured(model.learner.head, "weight", 0.5)
        prune.l1_unstructured(model.learner.backbone.blocks[1].conv, "weight", 0.5)
        return meta_gradient(model, episode)

    torch.testing.assert_close(gradient(ANIL), gradient(StepsOfHead), rtol=1e-9, atol=1e-12)
