"""EpisodeMean against numpy."""

import numpy as np
import pytest
import torch

from fewshot_pl.algorithms import ProtoNet, RelationNet
from fewshot_pl.metrics import EpisodeMean, episode_accuracy, episode_losses, episode_mean, episode_mse
from fewshot_pl.metrics.episode_mean import _losses_at_once

NUM_EPISODES, NUM_QUERIES, NUM_WAYS = 40, 15, 5


@pytest.fixture
def logits():
    return torch.randn(NUM_EPISODES, NUM_QUERIES, NUM_WAYS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets():
    return torch.randint(NUM_WAYS, (NUM_EPISODES, NUM_QUERIES), generator=torch.Generator().manual_seed(1))


def updated(*batches):
    metric = EpisodeMean()
    for logits, targets in batches:
        metric.update(episode_accuracy(logits, targets))
    return metric


def test_is_the_mean_and_1_96_standard_errors(logits, targets):
    accuracy, ci95 = updated((logits, targets)).compute()
    per_episode = (logits.numpy().argmax(-1) == targets.numpy()).mean(-1)
    assert accuracy.item() == pytest.approx(per_episode.mean(), abs=1e-7)
    assert ci95.item() == pytest.approx(1.96 * per_episode.std() / np.sqrt(NUM_EPISODES), abs=1e-7)


def test_a_single_episode_has_no_interval(logits, targets):
    accuracy, ci95 = updated((logits[:1], targets[:1])).compute()
    assert accuracy == episode_accuracy(logits[:1], targets[:1]).item()
    assert ci95.isnan()


def test_unknown_queries_are_left_out():
    right = torch.eye(3)[[0, 1, 2, 0]][None]  # [1, 4, 3] logits of the classes 0, 1, 2, 0
    assert episode_accuracy(right, torch.tensor([[0, 1, 0, 0]])) == 0.75
    assert episode_accuracy(right, torch.tensor([[0, 1, -100, -100]])) == 1
    assert episode_accuracy(right, torch.tensor([[0, -100, 0, -100]])) == 0.5


def test_the_last_digit_does_not_depend_on_the_batches(logits, targets):
    together = updated((logits, targets)).compute()
    for sizes in ([1] * NUM_EPISODES, [7, 13, 20]):
        batches = zip(logits.split(sizes), targets.split(sizes), strict=True)
        backwards = reversed(list(zip(logits.split(sizes), targets.split(sizes), strict=True)))
        assert updated(*batches).compute() == together
        assert updated(*backwards).compute() == together


def test_starts_anew_after_a_reset(logits, targets):
    metric = updated((logits[:5], targets[:5]))
    metric.reset()
    metric.update(episode_accuracy(logits[5:], targets[5:]))
    assert metric.compute() == updated((logits[5:], targets[5:])).compute()


def test_joins_devices_exactly(logits, targets):
    # Two devices with unequal numbers of episodes; the other device's state stands in for gathering.
    mine, other = (
        updated((logits[:13], targets[:13])),
        updated((logits[13:20], targets[13:20]), (logits[20:], targets[20:])),
    )
    mine.dist_sync_fn = lambda state, group=None: [state, other.per_episode()]
    mine.distributed_available_fn = lambda: True
    assert mine.compute() == updated((logits, targets)).compute()


def test_state_is_not_in_checkpoints(logits, targets):
    assert updated((logits, targets)).state_dict() == {}


def test_squared_error_is_the_mean_over_points_and_dimensions():
    predictions, targets = torch.randn(2, 4, 7, 3).unbind()
    expected = ((predictions.numpy() - targets.numpy()) ** 2).reshape(4, -1).mean(1)
    np.testing.assert_allclose(episode_mse(predictions, targets), expected, rtol=1e-6)


@pytest.mark.parametrize("algorithm", [ProtoNet, RelationNet])
@pytest.mark.parametrize("inference", [True, False])
def test_losses_at_once_as_on_a_gpu_are_those_one_by_one(algorithm, inference, logits, targets):
    targets[0, 2] = targets[3, :7] = -100
    loss = algorithm().query_loss
    with torch.inference_mode(inference):
        expected = torch.stack([loss(*task) for task in zip(logits.split(1), targets.split(1), strict=True)])
        torch.testing.assert_close(episode_losses(loss, logits, targets), expected, rtol=0, atol=0)
        torch.testing.assert_close(_losses_at_once(loss, logits, targets), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compute", ["_losses_one_by_one", "_losses_at_once"])
def test_outputs_in_half_precision_give_losses_in_float32(compute, logits, targets, monkeypatch):
    monkeypatch.setattr(episode_mean, "_losses_one_by_one", getattr(episode_mean, compute))
    loss, half = ProtoNet().query_loss, logits.bfloat16()
    expected = torch.stack([loss(*task) for task in zip(half.float().split(1), targets.split(1), strict=True)])
    with torch.autocast("cpu", torch.bfloat16):
        found = episode_losses(loss, half, targets)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_losses_at_once_of_a_regression():
    outputs, targets = torch.randn(2, 4, 6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = episode_mse(outputs, targets)
    torch.testing.assert_close(_losses_at_once(ProtoNet().query_loss, outputs, targets), expected, rtol=0, atol=1e-14)


def test_a_users_loss_is_never_taken_under_vmap():
    def loss(outputs, targets):
        assert not torch._C._functorch.is_batchedtensor(outputs)  # there it could select no outputs by their values
        return outputs.mean()

    outputs = torch.empty(2, 4, 3, device="meta")  # on a CPU no loss is
    assert episode_losses(loss, outputs, outputs).shape == (2,)
