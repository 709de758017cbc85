"""Episodes of one size: reproducible, evenly drawn, without an image twice, and shared out over devices."""

import hashlib

import numpy as np
import pytest
import torch
from random_images import a_store

from fewshot_pl.data.episode_dataset import FixedEpisodes, TrainingEpisodes
from fewshot_pl.data.episode_sampler import EpisodeSampler, EpisodeSize, episode_generator
from fewshot_pl.errors import InputError

COUNTS = (6, 9, 7, 6, 12, 8, 6, 20)


def a_sampler(store=None, size=(5, 2, 4), seed=0, num_rotations=1):
    return EpisodeSampler(store or a_store(COUNTS), EpisodeSize(*size), seed, num_rotations)


def test_the_same_call_gives_the_same_episodes_whatever_the_global_random_state():
    first = a_sampler()(3, 10, 8)
    np.random.seed(1)
    torch.manual_seed(1)
    second = a_sampler()(3, 10, 8)
    assert all(map(np.array_equal, first, second))


def test_episodes_do_not_depend_on_how_they_are_batched():
    sampler = a_sampler(num_rotations=4)
    together = sampler(0, 0, 8)
    one_by_one = [sampler(0, episode, 1) for episode in range(8)]
    for field, batched in together._asdict().items():
        assert np.array_equal(batched, np.concatenate([getattr(episode, field) for episode in one_by_one]))


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}, {"first": 8}, {"seed": -1}])
def test_another_seed_epoch_or_number_is_another_episode(change):
    def support(seed=0, epoch=0, first=0):
        return a_sampler(seed=seed)(epoch, first, 8).support

    assert not torch.equal(support(), support(**change))


@pytest.mark.parametrize("size", [(5, 2, 4), (5, 1, 5), (8, 3, 3), (1, 1, 1)])
@pytest.mark.parametrize("num_rotations", [1, 4])
def test_images_are_of_their_class_and_none_is_drawn_twice(size, num_rotations):
    store = a_store(COUNTS)
    num_ways, num_shots, num_queries = size
    support, query, turns = a_sampler(store, size, num_rotations=num_rotations)(0, 0, 200)[:3]
    assert support.shape == (200, num_ways, num_shots)
    assert query.shape == (200, num_ways, num_queries)
    assert turns.shape == (200, num_ways)
    classes = torch.from_numpy(np.searchsorted(store.class_starts, torch.cat([support, query], -1), side="right") - 1)
    assert (classes == classes[..., :1]).all()
    for task in range(200):
        assert len({*zip(classes[task, :, 0].tolist(), turns[task].tolist(), strict=True)}) == num_ways
        for way in range(num_ways):
            drawn = torch.cat([support[task, way], query[task, way]]).tolist()
            assert len(set(drawn)) == num_shots + num_queries
    assert set(turns.unique().tolist()) == set(range(num_rotations))


def test_classes_images_labels_and_turns_are_drawn_evenly():
    num_episodes, store = 4000, a_store((10,) * 8)
    support, query, turns = a_sampler(store, (4, 1, 2), num_rotations=2)(0, 0, num_episodes)[:3]
    classes = support[..., 0] // 10
    for counts in (
        torch.bincount(classes[:, 0], minlength=8),  # each class is label 0 equally often
        torch.bincount(classes[:, 3], minlength=8),
        torch.bincount(support.flatten(), minlength=80),
        torch.bincount(query.flatten(), minlength=80),
        torch.bincount(turns.flatten(), minlength=2),
    ):
        expected = counts.float().mean()
        chi_squared = ((counts - expected) ** 2 / expected).sum()
        freedom = len(counts) - 1
        assert chi_squared < freedom + 4.5 * (2 * freedom) ** 0.5


def test_support_and_query_positions_are_interchangeable():
    """The order within an episode carries no information: the first query is as often a low image as the first shot."""
    store = a_store((10,) * 5)
    support, query = a_sampler(store, (5, 2, 8))(0, 0, 2000)[:2]  # takes every image of a class
    for images in (support[..., 0], support[..., 1], query[..., 0], query[..., -1]):
        assert (images % 10).float().mean().item() == pytest.approx(4.5, abs=0.12)


def test_the_first_episodes_are_these():
    """Fails if the episodes change, and with them every figure on a fixed list."""
    indices = a_sampler(num_rotations=4)(0, 0, 16)
    content = b"".join(tensor.numpy().astype("<i8").tobytes() for tensor in indices[:3])
    assert hashlib.sha256(content).hexdigest()[:16] == "f1601fdd7fc8cde7"


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((9, 1, 1), "9 classes.*only 8.*num_ways"),
        ((5, 3, 4), "'class0' has 6 images.*3 shots.*4 queries.*num_shots"),
        ((5, 3, 4), r"needs 3 shots \+ 4 queries: add images, or lower num_shots or num_queries$"),
        (
            (5, 1, 2, 2),
            r"needs 1 shots \+ 2 queries \+ 2 x 2 unlabelled images: add images, or lower num_shots, num_queries or "
            "num_unlabelled$",
        ),
    ],
)
def test_too_few_classes_or_images_are_said_with_the_cure(size, message):
    with pytest.raises(InputError, match=message):
        a_sampler(size=size)


def test_nothing_is_turned_and_everything_labelled_unless_asked_for():
    indices = EpisodeSampler(a_store(COUNTS), EpisodeSize(5, 2, 4), 0)(0, 0, 200)
    assert not indices.quarter_turns.any()
    assert indices.is_labelled == (True,) * 200


def test_a_share_of_the_tasks_is_unlabelled_and_their_images_stay_the_same():
    labelled, some = (EpisodeSampler(a_store(COUNTS), EpisodeSize(5, 1, 1, 1), 0, 1, share) for share in (0.0, 0.3))
    one, other = labelled(0, 0, 2000), some(0, 0, 2000)
    assert torch.equal(one.support, other.support) and torch.equal(one.query_u, other.query_u)
    assert 1 - sum(other.is_labelled) / 2000 == pytest.approx(0.3, abs=0.04)
    assert EpisodeSampler(a_store(COUNTS), EpisodeSize(5, 1, 1), 0, 1, 1.0)(0, 0, 50).is_labelled == (False,) * 50


@pytest.mark.parametrize("seed", [0, 2, 2**63, -1, -3])
@pytest.mark.parametrize("purpose", [0, 1])
def test_a_stream_is_named_by_seed_purpose_episode_and_epoch(seed, purpose):
    """No two streams share numbers; negative seeds are taken modulo 2^64."""
    state = episode_generator(seed, 7, 5, purpose).bit_generator.state["state"]
    assert state["key"].tolist() == [seed % 2**64, purpose]
    assert state["counter"].tolist() == [0, 0, 5, 7]
    assert episode_generator(seed, 7, 5).random() == episode_generator(seed, 7, 5, 0).random()


def test_rotations_count_as_classes():
    assert a_sampler(size=(32, 1, 1), num_rotations=4)(0, 0, 1).support.shape == (1, 32, 1)


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("num_episodes", [1, 50, 64])
def test_fixed_episodes_are_the_same_in_every_epoch(rank, num_episodes):
    batches = FixedEpisodes(num_episodes, 8, 4, rank)
    ranges = list(batches)
    assert len(batches) == len(ranges)
    batches.set_epoch(3)
    assert list(batches) == ranges


@pytest.mark.parametrize(("num_episodes", "world_size"), [(7, 2), (200, 32), (5, 5), (9, 8)])
def test_every_device_has_a_batch_where_there_are_as_many_episodes(num_episodes, world_size):
    batches = [FixedEpisodes(num_episodes, 8, world_size, rank) for rank in range(world_size)]
    assert min(map(len, batches)) >= 1


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_devices_train_on_episodes_of_their_own(world_size):
    loaders = [TrainingEpisodes(5, 3, world_size, rank) for rank in range(world_size)]
    for batches in loaders:
        assert len(batches) == len(list(batches)) == 5
        batches.set_epoch(2)
    steps = list(zip(*loaders, strict=True))
    for step, ranges in enumerate(steps):  # a step of N devices takes the next N * 3 episodes
        taken = [first + offset for epoch, first, count in ranges for offset in range(count)]
        assert taken == list(range(step * world_size * 3, (step + 1) * world_size * 3))
        assert {epoch for epoch, _, _ in ranges} == {2}
