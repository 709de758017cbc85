"""Thresholds for unknown images, against scikit-learn and by counting."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fewshot_pl.prediction.rejection import (
    REJECTIONS_KEY,
    auroc,
    calibrated,
    nearest_rejection,
    rejections_in,
    scores,
)


@pytest.fixture
def pair():
    """Two kinds of scores of known and unknown images, of which the second separates them better."""
    random = np.random.default_rng(0)
    known = {"logit": random.normal(0.2, 1, 3000), "probability": random.normal(2, 1, 3000)}
    unknown = {"logit": random.normal(0, 1, 2000), "probability": random.normal(0, 1, 2000)}
    return known, unknown


def test_auroc_is_scikit_learns_with_ties_too():
    random = np.random.default_rng(0)
    known, unknown = random.integers(3, 12, 200).astype(float), random.integers(0, 9, 300).astype(float)
    truth = np.r_[np.ones(200), np.zeros(300)]
    assert auroc(known, unknown) == pytest.approx(roc_auc_score(truth, np.r_[known, unknown]), abs=1e-12)


def test_the_better_score_is_chosen_and_its_rates_are_those_counted(pair):
    rejection = calibrated(*pair, num_ways=5, num_shots=1)
    known, unknown = (part["probability"] for part in pair)
    assert rejection.score == "probability"
    for share in (0.01, 0.05, 0.5):
        threshold = rejection.threshold(share)
        assert (known < threshold).mean() == pytest.approx(share, abs=1e-3)
        assert rejection.false_accept(share) == pytest.approx((unknown >= threshold).mean(), abs=1e-12)


def test_no_known_image_of_the_calibration_is_rejected_at_0_and_all_but_one_at_1(pair):
    rejection = calibrated(*pair, num_ways=5, num_shots=1)
    log_probabilities = np.log(np.exp(pair[0]["probability"]) * np.exp(-9))[:, None]  # of the same order as the scores
    as_probability = rejection._replace(thresholds=[float(np.exp(t - 9)) for t in rejection.thresholds])
    assert not as_probability.rejects(np.zeros((3000, 1)), log_probabilities, 0.0).any()
    assert as_probability.rejects(np.zeros((3000, 1)), log_probabilities, 1.0).sum() == 2999


def test_scores_are_the_largest_logit_and_probability():
    logits = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, -2.0]])
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = scores(logits, log_probabilities)
    np.testing.assert_array_equal(found["logit"], [3.0, 0.0])
    np.testing.assert_allclose(found["probability"], np.exp([3.0, 0.0]) / np.exp(logits).sum(-1))


@pytest.mark.parametrize(("num_shots", "nearest"), [(1, 1), (2, 1), (3, 5), (7, 5), (100, 20)])
def test_the_calibration_with_the_nearest_number_of_shots_is_taken(pair, num_shots, nearest):
    rejections = [calibrated(*pair, num_ways=5, num_shots=shots) for shots in (1, 5, 20)]
    assert nearest_rejection(rejections, num_shots).num_shots == nearest
    assert nearest_rejection([], num_shots) is None


def test_rejections_survive_a_checkpoint_of_plain_values(pair):
    rejection = calibrated(*pair, num_ways=5, num_shots=1)
    assert rejections_in({REJECTIONS_KEY: [rejection._asdict()]}) == [rejection]
    assert rejections_in({}) == []
