"""Prototypes and distances against their definitions, in float64."""

import pytest
import torch
from torch.nn import functional as F

from fewshot_pl.functional.prototypes import class_means, negative_cosines, one_hot, squared_distances

NUM_WAYS, NUM_SHOTS, NUM_FEATURES = 4, 3, 16


@pytest.fixture
def labels():
    return torch.arange(NUM_WAYS).repeat(NUM_SHOTS)


@pytest.fixture
def support(labels):
    return random_features(len(labels), seed=0)


@pytest.fixture
def query():
    return random_features(7, seed=1)


def random_features(num_rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_rows, NUM_FEATURES, dtype=torch.float64, generator=generator)


def assert_equal(actual, expected, tolerance=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def logits(support, labels, query):
    return -squared_distances(query, class_means(support, labels, NUM_WAYS))


def test_one_hot_is_torchs(labels):
    assert torch.equal(one_hot(labels, NUM_WAYS).long(), F.one_hot(labels, NUM_WAYS))


def test_class_means_are_the_means_of_each_class(support, labels):
    expected = torch.stack([support[labels == way].mean(0) for way in range(NUM_WAYS)])
    assert_equal(class_means(support, labels, NUM_WAYS), expected)


def test_classes_may_have_unequal_shots(support):
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3])
    expected = torch.stack([support[labels == way].mean(0) for way in range(NUM_WAYS)])
    assert_equal(class_means(support, labels, NUM_WAYS), expected)


def test_prototypes_of_one_shot_are_the_embeddings(support):
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(class_means(support[:NUM_WAYS], order, NUM_WAYS)[order], support[:NUM_WAYS])


def test_squared_distances_are_not_rooted(support, query):
    assert_equal(squared_distances(query, support), torch.cdist(query, support).square())


def test_squared_distances_far_from_the_origin_hold_float32_digits(support, query):
    # Conv4's features are positive and of length 10 or so: cancellation in |z|^2 - 2zc + |c|^2 must not show there.
    support, query = support + 3, query + 3
    in_float32 = squared_distances(query.float(), support.float()).double()
    torch.testing.assert_close(in_float32, squared_distances(query, support), rtol=1e-4, atol=0)


def test_cosines_are_torchs(support, query):
    expected = -F.cosine_similarity(query[:, None], support[None], dim=-1)
    assert_equal(negative_cosines(query, support), expected)


def test_softmax_over_distances_is_a_linear_classifier(support, labels, query):
    centres = class_means(support, labels, NUM_WAYS)
    linear = F.linear(query, 2 * centres, -centres.square().sum(-1))
    assert_equal(logits(support, labels, query).softmax(-1), linear.softmax(-1))


def test_moving_the_embedding_space_changes_nothing(support, labels, query):
    generator = torch.Generator().manual_seed(2)
    rotation, _ = torch.linalg.qr(torch.randn(NUM_FEATURES, NUM_FEATURES, dtype=torch.float64, generator=generator))
    shift = torch.randn(NUM_FEATURES, dtype=torch.float64, generator=generator)
    moved = logits(support @ rotation + shift, labels, query @ rotation + shift)
    assert_equal(moved, logits(support, labels, query))


def test_order_within_a_class_changes_nothing(support, labels, query):
    order = torch.cat([torch.where(labels == way)[0].flip(0) for way in range(NUM_WAYS)])
    assert_equal(logits(support[order], labels[order], query), logits(support, labels, query))


def test_renamed_classes_permute_the_logits(support, labels, query):
    names = torch.tensor([2, 0, 3, 1])
    assert_equal(logits(support, names[labels], query)[:, names], logits(support, labels, query))


def test_the_mean_minimises_the_squared_distances(support, labels):
    def cost(centres):
        return squared_distances(support, centres).gather(1, labels[:, None]).sum()

    centres = class_means(support, labels, NUM_WAYS).requires_grad_()
    (slope,) = torch.autograd.grad(cost(centres), centres)
    assert slope.abs().max() < 1e-12
    assert all(cost(centres + 0.1 * torch.randn_like(centres)) > cost(centres) for _ in range(5))


@pytest.mark.parametrize("distances", [squared_distances, negative_cosines])
def test_works_under_vmap(support, labels, query, distances):
    def task_distances(support, labels, query):
        return distances(query, class_means(support, labels, NUM_WAYS))

    tasks = torch.stack([support, support.flip(0)]), torch.stack([labels, labels.flip(0)]), torch.stack([query, -query])
    mapped = torch.func.vmap(task_distances)(*tasks)
    assert_equal(mapped, torch.stack([task_distances(*task) for task in zip(*tasks, strict=True)]))
