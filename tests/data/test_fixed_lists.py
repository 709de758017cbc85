"""What an evaluation needs of a data module: the classes of its episodes, other sizes, and the order over devices."""

import fewshot_pl  # noqa: F401, I001 - first: it makes torchvision importable

import numpy as np
import pytest
from quiet_trainer import on_device

from fewshot_pl.benchmarks import Sinusoid
from fewshot_pl.data.image_datamodule import ImageDataModule

NUM_EPISODES = 21


class Noise(ImageDataModule):
    """Classes with different numbers of images, all distinct; each quarter turn may be a class of its own."""

    image_shape = (1, 4, 4)

    def __init__(self, *, turns=1, **kwargs):
        super().__init__(**kwargs)
        self.turns = turns

    def class_images(self, split):
        random = np.random.default_rng(0)
        for index, count in enumerate((6, 9, 7, 6)):
            yield f"class{index}", random.integers(0, 256, (count, *self.image_shape), dtype=np.uint8)

    def source_fingerprint(self):
        return {"benchmark": "noise"}

    def num_rotations(self, split):
        return self.turns


@pytest.fixture
def noise(tmp_path):
    def noise(**settings):
        defaults = {"num_ways": 3, "num_shots": 2, "num_queries": 4, "num_test_episodes": NUM_EPISODES}
        data = Noise(cache_dir=str(tmp_path), **(defaults | settings))
        data.prepare_data()
        data.setup("test")
        return data

    return noise


@pytest.mark.parametrize("turns", [1, 4])
def test_classes_of_the_list_own_the_images_of_its_episodes(noise, turns):
    data = noise(turns=turns)
    classes = data.fixed_classes("test")
    assert classes.shape == (NUM_EPISODES, 3)
    assert len(classes.unique()) > 2 * turns
    for number, of_episode in enumerate(classes.tolist()):
        episode = data.fixed_episodes("test", number)
        for image, label in zip(episode.query_x[0], episode.query_y[0].tolist(), strict=True):
            source, quarter_turns = divmod(of_episode[label], turns)
            turned = np.rot90(data.stores["test"].class_images(source), quarter_turns, axes=(2, 3))
            pixels = (255 * image).round().numpy()
            assert (turned == pixels).all((1, 2, 3)).sum() == 1


def test_another_size_is_that_of_a_new_data_module_over_the_same_images(noise):
    data = noise(seed=3, turns=4)
    sized, new = data.sized(num_ways=4, num_shots=1), noise(seed=3, turns=4, num_ways=4, num_shots=1)
    assert sized.hparams == new.hparams and data.eval_size.num_ways == 3
    assert sized.stores["test"] is data.stores["test"]
    for one, other in zip(sized.sampler("test")(0, 0, 5), new.sampler("test")(0, 0, 5), strict=True):
        assert np.array_equal(one, other)


def test_a_regression_has_other_numbers_of_points():
    sized = Sinusoid(num_shots=3, lines=True, seed=2).sized(num_shots=7)
    assert (sized.eval_size.num_shots, sized.eval_size.num_ways, sized.seed) == (7, 1, 2)
    assert sized.curves.lines


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_seen_order_is_that_of_the_loaders(noise, world_size):
    data = noise(eval_tasks_per_batch=4, store="device")
    seen = []
    for rank in range(world_size):
        on_device(data, rank, of=world_size)
        for episodes in data._fixed_loader("test").sampler:
            seen += range(episodes.first_episode, episodes.first_episode + episodes.num_episodes)
    assert data.seen_order("test") == seen
    assert sorted(seen) == list(range(NUM_EPISODES))
