"""A GPU gives the figures of a CPU, and no step waits for it; skipped where torch has no GPU."""

import copy
import json

import numpy as np
import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, random_episode, relative_error
from kinds_of_steps import KINDS, build
from lightning_fabric.utilities import move_data_to_device
from own_images import ALGORITHMS
from quiet_trainer import quiet_trainer
from random_images import give_random_images

from fewshot_pl import FewShotPredictor, ProtoNet
from fewshot_pl.benchmarks import Glyphs
from fewshot_pl.cli import train
from fewshot_pl.data.augment import standard_augmentation

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
    pytest.mark.xdist_group("gpu"),  # memory of one process
    pytest.mark.filterwarnings("ignore:.*num_workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*LightningCLI's args parameter"),
    pytest.mark.filterwarnings("ignore:(?s).*Jsonargparse"),
    pytest.mark.filterwarnings("ignore:(?s).*instantiate_classes"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]
GPU = torch.device("cuda")


@pytest.fixture(scope="module", autouse=True)
def random_images():
    """In place of glyphs, which are drawn for long: no step can tell."""
    with pytest.MonkeyPatch.context() as patch:
        give_random_images(patch)
        yield


def seeded(kind, image_shape=IMAGE_SHAPE, **arguments):
    """An algorithm that takes a kind of steps, with the same weights at every call."""
    torch.manual_seed(0)
    return build(kind, image_shape, **arguments)


def a_step(model, episode):
    """The losses, gradients and buffers of a training step, and the logits after it, all on the CPU."""
    torch.manual_seed(1)  # for what the algorithm draws for tasks
    losses = model.train().training_losses(episode)
    losses["loss"].backward()
    gradients = {name: parameter.grad.cpu() for name, parameter in model.named_parameters()}
    buffers = {name: buffer.cpu() for name, buffer in model.named_buffers()}
    logits = model.eval()(episode).detach().cpu()
    return {name: loss.detach().cpu() for name, loss in losses.items()}, gradients, buffers, logits


@pytest.mark.parametrize("task_parallel", ["auto", "loop", "vmap"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_that_of_a_cpu(kind, task_parallel):
    episode = random_episode(num_tasks=3, dtype=torch.float64)._replace(known_ways=NUM_WAYS)
    expected = a_step(seeded(kind, task_parallel="loop").double(), episode)
    found = a_step(seeded(kind, task_parallel=task_parallel).double().to(GPU), move_data_to_device(episode, GPU))
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("norm", ["transductive", "support"])
@pytest.mark.parametrize("task_chunk", [None, 2])
@pytest.mark.parametrize("kind", ["MAML", "Reptile"])
def test_a_step_side_by_side_is_that_of_a_cpu(kind, task_chunk, norm):
    episode = random_episode(num_tasks=3, dtype=torch.float64)._replace(known_ways=NUM_WAYS)
    settings = {"num_inner_steps": 2, "norm": norm}
    together = seeded(kind, task_parallel="side_by_side", task_chunk=task_chunk, **settings)
    found = a_step(together.double().to(GPU), move_data_to_device(episode, GPU))
    expected = a_step(seeded(kind, task_parallel="loop", **settings).double(), episode)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_attention_trains_on_several_tasks_as_on_a_cpu(precision):
    """Fused attention keeps nothing for its gradient under vmap."""
    image_shape = (1, 32, 32)
    episode = random_episode(num_tasks=2, image_shape=image_shape)._replace(known_ways=NUM_WAYS)
    torch.manual_seed(0)
    model = ProtoNet(image_shape=image_shape, backbone="timm/test_vit")
    losses, gradients, *_ = a_step(copy.deepcopy(model), episode)
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16-mixed"):
        its_losses, its_gradients, *_ = a_step(model.to(GPU), move_data_to_device(episode, GPU))
    found, expected = (
        torch.cat([values["loss"][None].double(), *(gradient.double().flatten() for gradient in of.values())])
        for values, of in ((its_losses, its_gradients), (losses, gradients))
    )
    assert relative_error(found, expected) < {"32-true": 1e-2, "bf16-mixed": 0.1}[precision]


@pytest.mark.parametrize("kind", ["ProtoNet", "MAML"])
def test_a_compiled_step_is_that_of_a_cpu(kind, recwarn):
    torch.compiler.reset()
    episode = random_episode(num_tasks=3, dtype=torch.float64)._replace(known_ways=NUM_WAYS)
    model = seeded(kind, compile=True).double().to(GPU)
    found = a_step(model, move_data_to_device(episode, GPU))
    assert model.compiles_tasks, [str(warning.message) for warning in recwarn]
    torch.testing.assert_close(found, a_step(seeded(kind).double(), episode), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_waits(kind):
    model = seeded(kind).to(GPU)
    optimizer = torch.optim.Adam(model.parameters())
    episode = move_data_to_device(random_episode(num_tasks=3)._replace(known_ways=NUM_WAYS), GPU)

    def step():
        optimizer.zero_grad()
        model.training_losses(episode)["loss"].backward()
        optimizer.step()

    step()  # first-time set-up may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("store", ["device", "host"])
@pytest.mark.parametrize("num_episodes", [20, 2000])  # on images, and, where that is less work, on features
@pytest.mark.parametrize("kind", ["ProtoNet", "MatchingNet", "MAML"])
def test_an_evaluation_gives_the_figures_of_a_cpu(kind, num_episodes, store, packed):
    def evaluated(accelerator):
        data = Glyphs(num_ways=NUM_WAYS, num_queries=3, num_test_episodes=num_episodes, store=store, cache_dir=packed)
        model = seeded(kind, data.image_shape)
        trainer = quiet_trainer(accelerator=accelerator, devices=1, precision="64-true")
        return trainer.test(model, datamodule=data, verbose=False)[0]

    assert evaluated("gpu") == pytest.approx(evaluated("cpu"), abs=1e-6)


def test_images_are_augmented_on_the_gpu():
    images = torch.rand(16, 3, 32, 32, device=GPU)
    augmented = standard_augmentation(images)
    assert augmented.device == images.device and augmented.shape == images.shape
    assert 0 <= augmented.min() < augmented.max() <= 1
    assert (augmented != images).any((1, 2, 3)).all()


@pytest.mark.parametrize("kind", ["ProtoNet", "MAML", "Reptile"])
def test_a_predictor_gives_the_logits_of_a_cpu(kind, checkpoint, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    path, images = checkpoint(kind), np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)

    def logits(device):
        return FewShotPredictor(path, device=device).fit(images, [0, 0, 1, 1, 2, 2]).decision_function(images)

    np.testing.assert_allclose(logits("cuda"), logits("cpu"), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithm_trains_and_is_tested_by_its_command(name, precision, packed, tmp_path, capsys):
    command = [
        *(f"--model={name}", "--data=Glyphs", f"--data.cache_dir={packed}", f"--runs={tmp_path}"),
        *("--trainer.accelerator=gpu", "--trainer.devices=1", f"--trainer.precision={precision}"),
        *("--trainer.max_epochs=1", "--data.batches_per_epoch=3", "--data.tasks_per_batch=2"),
        *("--data.num_ways=3", "--data.num_queries=2", "--data.num_val_episodes=4", "--data.num_test_episodes=4"),
        *(f"--model.{key}={value}" for key, value in ALGORITHMS[name].items() if key != "num_ways"),
    ]
    assert train(command) == 0
    assert "test split" in capsys.readouterr().out
    (result,) = tmp_path.glob("*/*/*/results.json")
    assert torch.cuda.get_device_name() in json.loads(result.read_text())["machine"]


@pytest.mark.parametrize("name", ["ProtoNet", "MatchingNet"])
def test_pictures_are_made_of_validations_on_features(name, packed, tmp_path):
    command = [
        *(f"--model={name}", "--data=Glyphs", f"--data.cache_dir={packed}", f"--runs={tmp_path}"),
        *("--trainer.accelerator=gpu", "--trainer.devices=1", "--trainer.max_epochs=1", "--pictures=all"),
        *("--data.batches_per_epoch=2", "--data.num_val_episodes=2000", "--data.num_test_episodes=4"),
    ]
    assert train(command) == 0


@pytest.mark.parametrize("kind", ["ProtoNet", "MAML"])
def test_a_chunk_of_tasks_bounds_the_memory_of_a_step(kind):
    episode = move_data_to_device(random_episode(num_tasks=16, num_queries=20)._replace(known_ways=NUM_WAYS), GPU)

    def peak(task_chunk):
        model = seeded(kind, task_chunk=task_chunk).to(GPU)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        model.training_losses(episode)["loss"].backward()
        return torch.cuda.max_memory_allocated() - before

    peak(None)  # first-time set-up
    assert peak(2) < peak(None) / 2


def test_a_training_goes_on_as_if_never_stopped(packed, tmp_path, monkeypatch, request):
    def fitted(num_epochs, ckpt_path=None):
        data = Glyphs(num_ways=NUM_WAYS, batches_per_epoch=3, num_val_episodes=2, cache_dir=packed)
        model = seeded("MAML", data.image_shape)
        trainer = quiet_trainer(accelerator="gpu", devices=1, max_epochs=num_epochs, deterministic=True)
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        return trainer, copy.deepcopy(model.state_dict())

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Lightning sets it, and leaves it so
    request.addfinalizer(lambda: torch.use_deterministic_algorithms(False))
    first_half, _ = fitted(1)
    first_half.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = fitted(2, tmp_path / "half.ckpt")
    _, in_one_go = fitted(2)
    torch.testing.assert_close(resumed, in_one_go, rtol=0, atol=0)
