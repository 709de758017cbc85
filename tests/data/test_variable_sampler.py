"""Episodes that differ in size, against the rules of Meta-Dataset's paper (Triantafillou et al. 2020, 3.2)."""

import math

import numpy as np
import pytest
import torch
from random_images import a_store

from fewshot_pl.data.episode_dataset import EpisodeDataset, EpisodeRange, FixedEpisodes, TrainingEpisodes
from fewshot_pl.data.indices import VariableIndices
from fewshot_pl.data.variable_sampler import VariableSampler, VariableSize, check_bounds, class_shots
from fewshot_pl.errors import InputError

COUNTS = (6, 90, 7, 40, 12, 250, 2, 20, 31, 16, 600, 14)


def a_sampler(store=None, seed=0, num_rotations=1, **bounds):
    return VariableSampler(store or a_store(COUNTS), VariableSize(**bounds), seed, num_rotations)


def same(one, other):
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(one, other, strict=True))


def shots_of(indices):
    return torch.bincount(indices.support_y[0], minlength=indices.num_ways)


@pytest.mark.parametrize("num_rotations", [1, 4])
def test_images_are_of_their_classes_and_no_image_is_drawn_twice(num_rotations):
    store, sampler = a_store(COUNTS), a_sampler(num_rotations=num_rotations)
    for episode in range(200):
        indices = sampler(0, episode)
        assert indices.support.shape == (1, indices.support_y.shape[1], 1)
        assert indices.query.shape == (1, indices.query_y.shape[1], 1)
        numbers = torch.cat([indices.support, indices.query], 1)[0, :, 0]
        labels = torch.cat([indices.support_y, indices.query_y], 1)[0]
        turns = torch.cat([indices.support_turns, indices.query_turns], 1)[0]
        drawn = torch.stack([numbers, turns], 1)
        assert len(drawn.unique(dim=0)) == len(drawn)  # support and query are disjoint
        sources = torch.from_numpy(np.searchsorted(store.class_starts, numbers, side="right") - 1)
        class_of = dict(zip(labels.tolist(), zip(sources.tolist(), turns.tolist(), strict=True), strict=True))
        assert len(set(class_of.values())) == len(class_of) == indices.num_ways
        assert [class_of[label] for label in labels.tolist()] == [*zip(sources.tolist(), turns.tolist(), strict=True)]
        assert turns.max() < num_rotations
        classes = [sources * num_rotations + turns for _, (sources, turns) in sorted(class_of.items())]
        assert sampler.classes(0, episode).tolist() == [classes]


def test_sizes_lie_within_the_published_bounds():
    store, sampler = a_store(COUNTS), a_sampler(min_ways=3, max_ways=8, max_support=60)
    seen = set()
    for episode in range(400):
        indices = sampler(0, episode)
        firsts = [int(indices.query[0, indices.query_y[0] == way][0]) for way in range(indices.num_ways)]
        counts = np.diff(store.class_starts)[np.searchsorted(store.class_starts, firsts, side="right") - 1]
        num_queries = torch.bincount(indices.query_y[0])
        assert (num_queries == min(10, counts.min() // 2)).all()
        shots = shots_of(indices).numpy()
        assert shots.min() >= 1 and (shots <= counts - num_queries.numpy()).all()
        assert 3 <= indices.num_ways <= 8 and shots.sum() <= 60
        assert indices.support_y[0].tolist() == sorted(indices.support_y[0].tolist())
        seen |= {indices.num_ways, shots.sum() > 50}
    assert seen >= {3, 8, True}
    check_bounds(VariableSize(max_ways=8, max_support=8))  # an image of each is enough


def test_ways_are_uniform_as_far_as_there_are_classes():
    sampler = a_sampler(a_store((4,) * 14), max_ways=50)
    ways = torch.tensor([sampler(0, episode).num_ways for episode in range(3000)])
    counts = torch.bincount(ways, minlength=15)
    assert counts[:5].sum() == 0 and len(counts) == 15
    expected = 3000 / 10
    chi_squared = ((counts[5:] - expected) ** 2 / expected).sum()
    assert chi_squared < 27.9  # 99.9 % of the distribution with 9 degrees of freedom


def test_classes_and_images_are_drawn_evenly():
    sampler = a_sampler(a_store((10,) * 8), min_ways=4, max_ways=4)
    episodes = [sampler(0, episode) for episode in range(3000)]
    first = torch.cat([one.query[0, :1, 0] // 10 for one in episodes])  # the class that is label 0
    queries = torch.cat([one.query.flatten() for one in episodes])
    for counts in (torch.bincount(first, minlength=8), torch.bincount(queries, minlength=80)):
        expected = counts.float().mean()
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        freedom = len(counts) - 1
        assert chi_squared < freedom + 4.5 * (2 * freedom) ** 0.5


def shots_as_the_paper_writes_them(counts, num_queries, max_support, beta, alphas):
    """Section 3.2, one class after another."""
    num_support = min(max_support, sum(math.ceil(beta * min(100, count - num_queries)) for count in counts))
    total = sum(math.exp(alpha) * count for alpha, count in zip(alphas, counts, strict=True))
    shots = []
    for alpha, count in zip(alphas, counts, strict=True):
        ratio = math.exp(alpha) * count / total
        shots.append(min(math.floor(ratio * (num_support - len(counts))) + 1, count - num_queries))
    return shots


def test_shots_are_those_of_the_papers_formulas():
    random = np.random.default_rng(0)
    for _ in range(300):
        counts = random.integers(2, 900, random.integers(1, 50))
        num_queries, beta = min(10, int(counts.min()) // 2), 1 - random.random()
        alphas = random.uniform(math.log(0.5), math.log(2), len(counts))
        ours = class_shots(counts, num_queries, 500, beta, np.exp(alphas))
        assert ours.tolist() == shots_as_the_paper_writes_them(counts.tolist(), num_queries, 500, beta, alphas)


def test_shots_follow_class_sizes_and_are_imbalanced_between_equal_classes():
    sampler = a_sampler(a_store((20, 20, 200)), min_ways=3, max_ways=3)
    drawn = []
    for episode in range(600):
        indices = sampler(0, episode)
        sources = np.searchsorted([20, 40], indices.query[0, :, 0].numpy(), side="right")
        order = [int(sources[indices.query_y[0] == way][0]) for way in range(3)]
        drawn.append(shots_of(indices)[np.argsort(order)])
    shots = torch.stack(drawn).numpy()
    assert (shots[:, 0] != shots[:, 1]).mean() > 0.5
    assert shots[:, 0].mean() == pytest.approx(shots[:, 1].mean(), rel=0.1)
    assert shots[:, 2].mean() > 5 * shots[:, 0].mean()


def test_of_equal_classes_one_has_up_to_four_times_the_shots_of_another():
    sampler = a_sampler(a_store((300, 300)), min_ways=2, max_ways=2)
    shots = torch.stack([shots_of(sampler(0, episode)).sort().values for episode in range(400)])
    ratios = (shots[:, 1] - 1) / shots[:, 0]  # alpha is uniform from log 1/2 to log 2
    assert 3.5 < ratios.max() < 4


def test_an_episode_is_a_function_of_seed_epoch_and_number_alone():
    first = a_sampler()(3, 10)
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(first, a_sampler()(3, 10))
    for other in (a_sampler(seed=1)(3, 10), a_sampler()(4, 10), a_sampler()(3, 11)):
        assert other.num_ways != first.num_ways or not same(first, other)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_devices_and_datasets_share_out_the_same_episodes(world_size):
    sampler = a_sampler()
    dataset = EpisodeDataset("test", sampler)
    fixed = {}
    for rank in range(world_size):
        for episodes in FixedEpisodes(10, 1, world_size, rank):
            fixed[episodes.first_episode] = dataset[episodes].indices
    assert sorted(fixed) == list(range(10))
    assert all(same(indices, sampler(0, number)) for number, indices in fixed.items())
    trained = [list(TrainingEpisodes(4, 1, world_size, rank)) for rank in range(world_size)]
    numbers = [episodes.first_episode for ranges in trained for episodes in ranges]
    assert len(set(numbers)) == len(numbers)


def test_a_dataset_over_a_store_reads_the_images():
    indices = a_sampler()(0, 4)
    images = EpisodeDataset("val", a_sampler(), a_store(COUNTS))[EpisodeRange(0, 4, 1)].images
    assert isinstance(images, VariableIndices) and same(images[2:], indices[2:])
    assert images.support.shape == (*indices.support.shape, 1, 2, 2)
    assert torch.equal(images.query[..., 0, 0, 0].long(), indices.query % 256)


@pytest.mark.parametrize(
    ("counts", "bounds", "message"),
    [
        (COUNTS, {"min_ways": 13}, "13 classes.*only 12.*min_ways"),
        ((5, 5, 1, 5, 5), {}, "'class2' has a single image"),
    ],
)
def test_too_few_classes_or_images_are_refused(counts, bounds, message):
    with pytest.raises(InputError, match=message):
        a_sampler(a_store(counts), **bounds)


def test_images_per_episode_is_about_the_mean():
    sampler = a_sampler(a_store((30,) * 10))
    episodes = [sampler(0, episode) for episode in range(300)]
    mean = np.mean([one.support.numel() + one.query.numel() for one in episodes])
    assert sampler.images_per_episode == pytest.approx(mean, rel=0.4)
