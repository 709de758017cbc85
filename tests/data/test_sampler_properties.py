"""Properties of episodes of any size from any store, over stores and sizes that hypothesis generates."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_images import a_store
from scipy.stats import chisquare
from torch.utils.data import DataLoader

from fewshot_pl.data.episode_dataset import EpisodeDataset, EpisodeRange, FixedEpisodes, TrainingEpisodes
from fewshot_pl.data.episode_sampler import EpisodeSampler, EpisodeSize
from fewshot_pl.data.mixture import MixedDataset
from fewshot_pl.data.variable_sampler import VariableSampler, VariableSize

quick = settings(max_examples=25, deadline=None, derandomize=True, database=None)
NOT_EVEN = 1e-4  # p-value of chi-square below which draws count as uneven
SEEDS = st.integers(-(2**63), 2**64)
EPOCHS = st.integers(0, 2**40)


@st.composite
def samplers(draw):
    """An EpisodeSampler of any store with enough images for it, and the store."""
    size = EpisodeSize(*(draw(st.integers(1, 4)) for _ in range(3)), draw(st.integers(0, 2)))
    num_rotations = draw(st.sampled_from([1, 4]))
    fewest_classes = -(-size.num_ways // num_rotations)
    counts = st.lists(st.integers(size.num_images, size.num_images + 6), min_size=fewest_classes, max_size=7)
    store = a_store(draw(counts))
    unlabelled_tasks = draw(st.sampled_from([0.0, 0.4, 1.0]))
    return EpisodeSampler(store, size, draw(SEEDS), num_rotations, unlabelled_tasks), store


@st.composite
def variable_samplers(draw):
    counts = draw(st.lists(st.integers(2, 30), min_size=2, max_size=7))
    least, most = sorted(draw(st.tuples(st.integers(1, len(counts)), st.integers(1, 9))))
    least = min(least, len(counts))
    size = VariableSize(least, most, draw(st.integers(1, 5)), draw(st.integers(most, 40)))
    return VariableSampler(a_store(counts), size, draw(SEEDS)), a_store(counts)


def class_of(images, store):
    return np.searchsorted(store.class_starts, images, side="right") - 1


@given(samplers(), EPOCHS, st.integers(0, 2**40))
@quick
def test_an_episode_holds_each_image_once_and_as_many_of_each_of_its_classes(made, epoch, first):
    sampler, store = made
    indices = sampler(epoch, first, 3)
    size = sampler.size
    parts = indices.support, indices.query, indices.support_u, indices.query_u
    shots = size.num_shots, size.num_queries, size.num_unlabelled, size.num_unlabelled
    assert [tuple(part.shape) for part in parts] == [(3, size.num_ways, count) for count in shots]
    images = torch.cat(parts, -1).numpy()  # [T, N, n]
    classes = class_of(images, store)
    assert (classes == classes[..., :1]).all()
    turned = classes[..., 0] * sampler.num_rotations + indices.quarter_turns.numpy()
    assert (sampler.classes(epoch, first, 3).numpy() == turned).all()
    for task_images, task_classes, task_turns in zip(images, turned, indices.quarter_turns.numpy(), strict=True):
        assert len(set(task_classes.tolist())) == size.num_ways
        seen = set(zip(task_images.ravel().tolist(), task_turns.repeat(size.num_images).tolist(), strict=True))
        assert len(seen) == size.num_ways * size.num_images
    assert indices.quarter_turns.max() < sampler.num_rotations
    assert images.min() >= 0 and images.max() < len(store.images)


@given(variable_samplers(), EPOCHS, st.integers(0, 2**40))
@quick
def test_a_variable_episode_holds_each_image_once_and_every_label_up_to_its_ways(made, epoch, first):
    sampler, store = made
    indices = sampler(epoch, first)
    images = torch.cat([indices.support, indices.query], 1)[0, :, 0].numpy()
    labels = torch.cat([indices.support_y, indices.query_y], 1)[0].numpy()
    assert len(set(images.tolist())) == len(images)
    for label_of in (indices.support_y, indices.query_y):
        assert label_of.unique().tolist() == list(range(indices.num_ways))
    pairs = set(zip(labels.tolist(), class_of(images, store).tolist(), strict=True))
    assert len(pairs) == indices.num_ways == len({source for _, source in pairs})
    assert len(set(torch.bincount(indices.query_y[0]).tolist())) == 1  # queries are balanced


@given(samplers(), EPOCHS, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**40))
@quick
def test_batches_of_any_sizes_hold_the_same_episodes(made, epoch, sizes, first):
    sampler, _ = made
    firsts = first + np.cumsum([0, *sizes[:-1]])
    batches = [sampler(epoch, int(start), count) for start, count in zip(firsts, sizes, strict=True)]
    alone = [sampler(epoch, number, 1) for number in range(first, first + sum(sizes))]
    for batched, single in zip(zip(*batches, strict=True), zip(*alone, strict=True), strict=True):
        assert np.array_equal(np.concatenate(batched), np.concatenate(single))


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 8))
@example(200, 8, 32)  # so many devices that each has less than a batch
@settings(quick, max_examples=100)
def test_ranks_take_the_fixed_list_apart(num_episodes, tasks_per_batch, world_size):
    ranks = [FixedEpisodes(num_episodes, tasks_per_batch, world_size, rank) for rank in range(world_size)]
    taken = [first + task for rank in ranks for _, first, count in rank for task in range(count)]
    assert taken == [number for rank in ranks for number in rank.numbers]
    assert sorted(taken) == list(range(num_episodes))
    assert all(count <= tasks_per_batch for rank in ranks for _, _, count in rank)


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 6))
@quick
def test_ranks_together_train_on_the_episodes_of_one(num_batches, tasks_per_batch, world_size):
    def numbers(batches):
        return [first + task for _, first, count in batches for task in range(count)]

    ranks = [numbers(TrainingEpisodes(num_batches, tasks_per_batch, world_size, rank)) for rank in range(world_size)]
    one = numbers(TrainingEpisodes(num_batches, tasks_per_batch * world_size))
    assert sorted(chain(*ranks)) == one


@pytest.mark.parametrize("mixed", [False, True])
def test_workers_change_no_episode(mixed):
    store = a_store((9, 8, 12, 10))
    dataset = EpisodeDataset("train", EpisodeSampler(store, EpisodeSize(3, 2, 2), seed=4))
    if mixed:
        other = EpisodeDataset("train", EpisodeSampler(a_store((7, 7, 7)), EpisodeSize(3, 2, 2), seed=4))
        dataset = MixedDataset([dataset, other], np.array([0.5, 0.5]), seed=4)
    batches = TrainingEpisodes(6, 4)

    def supports(num_workers):
        batches.set_epoch(0)
        loader = DataLoader(dataset, sampler=batches, batch_size=None, num_workers=num_workers)
        return [torch.cat([part.indices.support for part in getattr(batch, "parts", [batch])]) for batch in loader]

    alone, with_workers = supports(0), supports(2)
    assert all(map(torch.equal, alone, with_workers)) and len(alone) == len(with_workers) == 6


@given(samplers(), st.integers(1, 6), EPOCHS)
@quick
def test_a_mixture_holds_the_episodes_of_its_sources_in_the_order_of_their_numbers(made, count, epoch):
    sampler, _ = made
    again = EpisodeSampler(a_store((sampler.size.num_images,) * 4), sampler.size, seed=1)
    sources = [EpisodeDataset("train", one) for one in (sampler, again)]
    mixture = MixedDataset(sources, np.array([0.5, 0.5]), seed=7)
    batch = mixture[EpisodeRange(epoch, 3, count)]
    supports = torch.cat([part.indices.support for part in batch.parts])[list(batch.places)]
    drawn = np.concatenate(
        [[source] * len(part.indices.support) for source, part in zip(batch.sources, batch.parts, strict=True)]
    )
    for number, source in enumerate(drawn[list(batch.places)]):
        assert torch.equal(supports[number], (sampler, again)[source](epoch, 3 + number, 1).support[0])


@pytest.mark.parametrize("seed", [0, 1])
def test_classes_images_and_pairs_of_them_are_even(seed):
    """On classes of different sizes, where a bias towards the large or the first ones would show."""
    counts, num_ways = (4, 9, 5, 4, 12), 3
    store = a_store(counts)
    indices = EpisodeSampler(store, EpisodeSize(num_ways, 2, 2), seed)(0, 0, 6000)
    classes = class_of(indices.query[..., 0].numpy(), store)  # [T, N]
    ordered_pairs = np.bincount(classes[:, 0] * 5 + classes[:, 1], minlength=25)
    assert chisquare(ordered_pairs[~np.eye(5, dtype=bool).ravel()]).pvalue > NOT_EVEN
    for place in range(num_ways):
        assert chisquare(np.bincount(classes[:, place], minlength=5)).pvalue > NOT_EVEN
    for source, (start, count) in enumerate(zip(store.class_starts, counts, strict=False)):
        first_and_last = indices.support[..., 0], indices.query[..., -1]
        for images in first_and_last:
            drawn = images.numpy()[classes == source] - start
            assert chisquare(np.bincount(drawn, minlength=count)).pvalue > NOT_EVEN


def test_classes_and_queries_of_variable_episodes_are_even():
    store = a_store((4, 9, 5, 4, 12))
    sampler = VariableSampler(store, VariableSize(2, 2, 2, 10), seed=0)
    episodes = [sampler(0, number) for number in range(1500)]
    first = np.concatenate([one.query[0, one.query_y[0] == 0, 0].numpy()[:1] for one in episodes])
    classes = class_of(first, store)
    assert chisquare(np.bincount(classes, minlength=5)).pvalue > NOT_EVEN
    for source, count in enumerate((4, 9, 5, 4, 12)):
        drawn = first[classes == source] - store.class_starts[source]
        assert chisquare(np.bincount(drawn, minlength=count)).pvalue > NOT_EVEN


def test_neighbouring_episodes_epochs_and_seeds_are_independent():
    """Each pair of first classes, of an episode and a neighbouring one, is equally frequent."""
    store = a_store((6,) * 5)

    def first_classes(seed=0, epoch=0, first=0):
        sampler = EpisodeSampler(store, EpisodeSize(2, 1, 1), seed)
        return class_of(sampler(epoch, first, 2500).query[:, 0, 0].numpy(), store)

    here = first_classes()
    for other in ({"first": 1}, {"epoch": 1}, {"seed": 1}, {"seed": -1}):
        assert chisquare(np.bincount(here * 5 + first_classes(**other), minlength=25)).pvalue > NOT_EVEN
