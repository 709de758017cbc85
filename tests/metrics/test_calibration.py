"""Calibration against scikit-learn and torchmetrics' multi-class form, and EpisodeMeasures."""

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import multiclass_calibration_error

from fewshot_pl.metrics import Calibration, EpisodeMeasures, episode_accuracy, episode_mse

NUM_EPISODES, NUM_QUERIES, NUM_WAYS = 40, 15, 5


@pytest.fixture
def log_probabilities():
    logits = 2 * torch.randn(NUM_EPISODES, NUM_QUERIES, NUM_WAYS, generator=torch.Generator().manual_seed(0))
    return logits.log_softmax(-1)


@pytest.fixture
def labels():
    return torch.randint(NUM_WAYS, (NUM_EPISODES, NUM_QUERIES), generator=torch.Generator().manual_seed(1))


def updated(*batches):
    metric = Calibration()
    for batch in batches:
        metric.update(*batch)
    return metric


def test_nll_is_the_log_loss_of_scikit_learn(log_probabilities, labels):
    expected = log_loss(labels.flatten(), log_probabilities.exp().flatten(0, 1).double())
    assert updated((log_probabilities, labels)).compute()["nll"].item() == pytest.approx(expected, rel=1e-6)


def test_brier_score_is_the_sum_of_scikit_learns_over_the_classes(log_probabilities, labels):
    probabilities = log_probabilities.exp().flatten(0, 1)
    expected = sum(brier_score_loss(labels.flatten() == n, probabilities[:, n]) for n in range(NUM_WAYS))
    assert updated((log_probabilities, labels)).compute()["brier"].item() == pytest.approx(expected, rel=1e-6)


def test_ece_is_torchmetrics_of_many_classes(log_probabilities, labels):
    probabilities = log_probabilities.exp().flatten(0, 1).double()
    expected = multiclass_calibration_error(probabilities, labels.flatten(), NUM_WAYS, n_bins=15)
    assert updated((log_probabilities, labels)).compute()["ece"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_ece_of_overconfidence_is_the_gap():
    log_probabilities = torch.tensor([0.9, 0.1]).log().expand(1, 10, 2)
    labels = torch.tensor([[0] * 6 + [1] * 4])  # 60 % right at 90 % confidence
    assert updated((log_probabilities, labels)).compute()["ece"].item() == pytest.approx(0.3, abs=1e-6)


def test_bins_are_those_of_a_loop_over_queries_and_certainty_is_in_the_last():
    confidences = [0.52, 0.55, 0.59, 0.61, 0.94, 0.99, 1.0, 1.0]
    correct = [1, 0, 1, 0, 1, 1, 0, 1]
    log_probabilities = torch.tensor([[[value, 1 - value] for value in confidences]]).log()
    metric = updated((log_probabilities, 1 - torch.tensor([correct])))
    ece = metric.compute()["ece"].item()
    metric.reset()
    expected_ece = 0.0
    for index in range(15):
        inside = [n for n, value in enumerate(confidences) if min(int(value * 15), 14) == index]
        assert metric.bins.num_queries[index] == len(inside)
        if inside:
            means = [sum(values[n] for n in inside) / len(inside) for values in (confidences, correct)]
            found = metric.bins.confidence[index].item(), metric.bins.accuracy[index].item()
            assert found == pytest.approx(means, abs=1e-6)
            expected_ece += len(inside) / len(confidences) * abs(means[0] - means[1])
    assert ece == pytest.approx(expected_ece, abs=1e-6)


def test_the_last_digit_does_not_depend_on_the_batches(log_probabilities, labels):
    together = updated((log_probabilities, labels)).compute()
    for sizes in ([1] * NUM_EPISODES, [7, 13, 20]):
        batches = list(zip(log_probabilities.split(sizes), labels.split(sizes), strict=True))
        assert updated(*batches).compute() == together
        assert updated(*reversed(batches)).compute() == together


def test_unknown_queries_are_left_out(log_probabilities, labels):
    some = labels.clone()
    some[:, 3:] = -100
    assert updated((log_probabilities, some)).compute() == updated((log_probabilities[:, :3], labels[:, :3])).compute()


def test_tasks_may_differ_in_ways(log_probabilities, labels):
    metric = updated((log_probabilities, labels), (torch.zeros(1, 2, 20).log_softmax(-1), torch.tensor([[19, 0]])))
    assert torch.tensor(list(metric.compute().values())).isfinite().all()


def test_measures_of_a_classification(log_probabilities, labels):
    measures = EpisodeMeasures()
    measures.classified(log_probabilities, labels)
    figures = measures.compute()
    assert list(figures) == ["accuracy", "ci95", "nll", "ece", "brier"]
    assert measures.num_episodes() == NUM_EPISODES
    assert figures["accuracy"].item() == pytest.approx(episode_accuracy(log_probabilities, labels).mean().item())


def test_measures_of_a_regression_after_a_classification(log_probabilities, labels):
    measures = EpisodeMeasures()
    measures.classified(log_probabilities, labels)
    measures.loss.update(torch.ones(NUM_EPISODES))
    measures.compute()
    measures.reset()
    predictions, targets = torch.randn(2, 4, 7, 1).unbind()
    measures.regressed(predictions, targets)
    figures = measures.compute()
    assert list(figures) == ["mse", "ci95"]
    assert measures.num_episodes() == 4
    assert figures["mse"].item() == pytest.approx(episode_mse(predictions, targets).mean().item())


def test_records_hold_each_episode_by_itself(log_probabilities, labels):
    measures = EpisodeMeasures()
    for batch in zip(log_probabilities.split(7), labels.split(7), strict=True):
        measures.classified(*batch)
    order = torch.randperm(NUM_EPISODES, generator=torch.Generator().manual_seed(2))
    records = measures.records().reordered(order)
    confidence, predicted = log_probabilities[order].exp().max(-1)
    assert torch.equal(records.correct, (predicted == labels[order]).float())
    assert torch.equal(records.confidence, confidence)
    torch.testing.assert_close(records.figures, records.correct.mean(-1))
    assert measures.compute()["accuracy"].item() == pytest.approx(records.figures.double().mean().item(), abs=1e-12)


def test_records_of_a_regression_are_errors():
    predictions, targets = torch.randn(2, 4, 7, 1, generator=torch.Generator().manual_seed(0)).unbind()
    measures = EpisodeMeasures()
    measures.regressed(predictions, targets)
    records = measures.records().reordered(torch.tensor([3, 0]))
    assert torch.equal(records.figures, episode_mse(predictions, targets)[[3, 0]])
    assert records.correct is None and records.confidence is None
