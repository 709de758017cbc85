"""Norm running in networks of the user's: layers that not every pass takes, and passes that no task takes."""

import pytest
import torch
from episodes import random_episode
from quiet_trainer import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader

from fewshot_pl.algorithms import MAML, MetaGAN, ProtoNet
from fewshot_pl.backbones.normalization import running_statistics
from fewshot_pl.episode import Episode

IMAGE_SHAPE = (1, 16, 16)


class Branched(nn.Module):
    """Features [n, 4 * 4] of images; a batch norm takes those alone whose first pixel is positive, another none."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, stride=4)
        self.norm, self.sometimes, self.never = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.norm(self.convolution(images))
        if images[0, 0, 0, 0] > 0:
            maps = self.sometimes(maps)
        return maps.flatten(1)


class Dropping(Branched):
    """The same, where every second pass leaves out the batch norm, whatever the images."""

    def __init__(self):
        super().__init__()
        self.num_passes = 0

    def forward(self, images):
        maps = self.norm(self.convolution(images))
        self.num_passes += 1
        return (self.sometimes(maps) if self.num_passes % 2 else maps).flatten(1)


class Own(ProtoNet):
    def own_backbone(self, image_shape):
        return Branched()


class OwnDropping(ProtoNet):
    def own_backbone(self, image_shape):
        return Dropping()


class OwnMAML(MAML):
    def own_backbone(self, image_shape):
        return Branched()


class Frozen(Own):
    """Keeps its extractor in evaluation mode, and learns one number."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.backbone.requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def logits_from_features(self, *features):
        return self.scale * super().logits_from_features(*features)


def built(algorithm, **settings):
    torch.manual_seed(0)
    return algorithm(image_shape=IMAGE_SHAPE, norm="running", **settings).double().train()


def episode_of(signs):
    """One task for each sign, which is that of the first pixels of its images."""
    episode = random_episode(num_tasks=len(signs), dtype=torch.float64)
    corners = torch.tensor(signs, dtype=torch.float64)[:, None]
    for images in (episode.support_x, episode.query_x):
        images[:, :, 0, 0, 0] = corners
    return episode


def statistics(layer):
    return torch.stack(running_statistics(layer))


@pytest.mark.parametrize("task_parallel", ["loop", "vmap"])
def test_an_extractor_in_evaluation_mode_keeps_its_statistics(task_parallel):
    model = built(Frozen, task_parallel=task_parallel)
    before = statistics(model)
    if task_parallel == "vmap":  # cannot branch by values
        model.backbone.forward = lambda images: model.backbone.norm(model.backbone.convolution(images)).flatten(1)
    model.training_losses(random_episode(dtype=torch.float64))["loss"].backward()
    assert model.scale.grad is not None
    assert torch.equal(statistics(model), before)


@pytest.mark.parametrize("settings", [{}, {"task_parallel": "threads"}, {"num_ways": 3}])
def test_a_layer_follows_those_tasks_that_pass_it(settings, two_threads):
    def trained(signs, numbers):
        model = built(OwnMAML if "num_ways" in settings else Own, **settings)
        tasks = (values[numbers] for values in episode_of(signs)[:4])
        model.training_losses(Episode(*tasks, known_ways=3))["loss"].backward()
        network = next(module for module in model.modules() if isinstance(module, Branched))
        return [statistics(layer) for layer in (network.norm, network.sometimes, network.never)]

    of_all, of_two = trained([1, -1, 1], [0, 1, 2]), trained([1, -1, 1], [0, 2])
    assert not torch.equal(of_all[0], of_two[0])
    torch.testing.assert_close(of_all[1], of_two[1], rtol=0, atol=1e-12)
    assert of_all[1][0].abs().min() > 0
    assert of_all[2].tolist() == [[0.0] * 4, [1.0] * 4]


def test_tasks_taken_by_vmap_one_after_the_other_may_differ_too():
    def trained(task_parallel):
        model = built(OwnDropping, task_parallel=task_parallel, task_chunk=1)
        model.training_losses(random_episode(num_tasks=3, dtype=torch.float64))["loss"].backward()
        network = model.backbone
        return [statistics(layer) for layer in (network.norm, network.sometimes, network.never)]

    by_vmap = trained("vmap")
    torch.testing.assert_close(by_vmap, trained("loop"), rtol=0, atol=1e-12)
    assert by_vmap[1][0].abs().min() > 0


# Passes outside map_tasks ----------------------------------------------------------------------------


class Baseline(Own):
    """Learns to classify all images of the tasks, of which it embeds support and queries in a pass each."""

    def training_losses(self, batch):
        features = torch.cat([self.passed(images.flatten(0, 1)) for images in (batch.support_x, batch.query_x)])
        labels = torch.cat([batch.support_y.flatten(), batch.query_y.flatten()])
        return {"loss": self.query_loss(features[None, :, :3], labels[None])}

    def passed(self, images):
        return self.encode(images)


class Direct(Baseline):
    def passed(self, images):
        features = self.backbone(images)
        self.update_running_statistics()
        return features


class Adapting(OwnMAML):
    training_losses, passed = Baseline.training_losses, Baseline.passed


class Meta(MetaGAN):
    own_backbone, training_losses, passed = Own.own_backbone, Baseline.training_losses, Baseline.passed


def main_norm(model):
    return next(module for module in model.modules() if isinstance(module, Branched)).norm


def maps(model, images):
    """What its main batch norm takes."""
    network = next(module for module in model.modules() if isinstance(module, Branched))
    return network.convolution(images.flatten(0, 1)).detach()


@pytest.mark.parametrize(
    ("algorithm", "settings"), [(Baseline, {}), (Direct, {}), (Adapting, {"num_ways": 3}), (Meta, {"num_ways": 3})]
)
def test_each_pass_counts_as_with_torchs_batch_norm(algorithm, settings):
    model, reference = built(algorithm, **settings), nn.BatchNorm2d(4).double()
    for seed in range(2):
        episode = random_episode(dtype=torch.float64, seed=seed)
        model.training_losses(episode)["loss"].backward()
        for images in (episode.support_x, episode.query_x):
            reference(maps(model, images))
    expected = torch.stack([reference.running_mean, reference.running_var])
    torch.testing.assert_close(statistics(main_norm(model)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_passes_without_gradients_and_in_evaluation_do_not_count(training):
    model = built(Baseline).train(training)
    before = statistics(model)
    with torch.set_grad_enabled(not training):
        model.encode(random_episode(dtype=torch.float64).support_x[0])
    assert torch.equal(statistics(model), before)
    assert main_norm(model).observed is None


@pytest.mark.parametrize("known_ways", [None, 3])
def test_tasks_count_once_although_they_are_encoded(known_ways):
    model, counted = built(Own), []
    update = model.backbone.norm.update_running
    model.backbone.norm.update_running = lambda *observed: (counted.append(observed), update(*observed))
    model.training_losses(random_episode(dtype=torch.float64)._replace(known_ways=known_ways))
    assert len(counted) == 1 and not model.is_mapping


def test_each_accumulated_batch_counts():
    def trained(**settings):
        model = built(Baseline, learning_rate=0.0)
        batches = [random_episode(dtype=torch.float64, seed=seed) for seed in range(4)]
        quiet_trainer(max_epochs=1, **settings).fit(model, DataLoader(batches, batch_size=None))
        return statistics(model)

    assert torch.equal(trained(), trained(accumulate_grad_batches=2))
    assert trained()[0].abs().min() > 0
