"""Backbones by name: their sizes, their weights, and what they refuse."""

import copy

import pytest
import timm
import torch
from episodes import flat_gradient, random_episode, relative_error
from quiet_trainer import quiet_trainer
from torch import nn
from torch.utils.data import DataLoader

from fewshot_pl.algorithms import MAML, ProtoNet
from fewshot_pl.backbones import EpisodicBatchNorm2d, Learner, build_backbone, num_features
from fewshot_pl.backbones.residual import DropBlock, drop_blocks
from fewshot_pl.errors import InputError

CONV4 = ["conv4", "conv4-32", "conv4-strided", "conv4-32-strided", "conv4-strided-flat", "conv4-maps"]
# The first and the last take images of any size; the others are built for one, which is an argument.
TIMM = ["timm/resnet18", "timm/vit_tiny_patch16_224", "timm/deit_tiny_patch16_224", "timm/fastvit_t8"]


# Shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("name", CONV4 + TIMM)
def test_features_are_vectors_of_the_stated_length(name, num_channels):
    shape = (num_channels, 32, 32)
    assert_vectors(build_backbone(name, shape, "running"), shape)


@pytest.mark.parametrize("name", ["resnet12", "wrn28_10"])
def test_residual_networks_take_small_colour_images(name):
    assert_vectors(build_backbone(name, (3, 32, 32), "running"), (3, 32, 32), num_images=1, expected=640)


def assert_vectors(backbone, shape, num_images=2, expected=None):
    with torch.no_grad():
        features = backbone.eval()(torch.randn(num_images, *shape))
    assert features.shape == (num_images, num_features(backbone, shape))
    assert features.isfinite().all()
    assert expected in (None, features.shape[1])


@pytest.mark.parametrize(
    ("name", "shape", "length"),
    [
        ("conv4", (1, 28, 28), 64),
        ("conv4-strided", (1, 28, 28), 64),
        ("conv4-strided-flat", (1, 28, 28), 256),
        ("conv4-32", (3, 84, 84), 800),
        ("conv4", (3, 84, 84), 1600),
        ("conv4-32-strided", (3, 84, 84), 32),
        ("conv4-maps", (1, 28, 28), 64 * 5 * 5),
        ("conv4-maps", (3, 84, 84), 64 * 19 * 19),
    ],
)
def test_conv4_has_the_lengths_of_the_papers(name, shape, length):
    assert num_features(build_backbone(name, shape, "transductive"), shape) == length


def test_conv4_32_with_a_head_has_the_literatures_number_of_parameters():
    learner = Learner(build_backbone("conv4-32", (3, 84, 84), "transductive"), (3, 84, 84), num_ways=5)
    assert sum(parameter.numel() for parameter in learner.parameters()) == 32_901


def test_measuring_the_length_leaves_the_backbone_as_it_was():
    backbone = build_backbone("conv4", (1, 16, 16), "running").train()
    before = copy.deepcopy(backbone.state_dict())
    num_features(backbone, (1, 16, 16))
    assert backbone.training
    torch.testing.assert_close(backbone.state_dict(), before, rtol=0, atol=0)


# The published networks ------------------------------------------------------------------------------


def test_resnet12_is_learn2learns_on_84_pixels():
    from learn2learn.vision.models import ResNet12Backbone  # seconds to import, so only here

    theirs, ours = ResNet12Backbone().eval(), build_backbone("resnet12", (3, 84, 84), "running").eval()
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(theirs.parameters()).detach(), ours.parameters())
    images = torch.randn(2, 3, 84, 84)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("size", "block_size"), [(84, 5), (32, 2), (28, 1)])
def test_resnet12_drops_blocks_that_fit_its_maps(size, block_size):
    backbone = build_backbone("resnet12", (3, size, size), "running")
    assert {layer.block_size for layer in backbone.modules() if isinstance(layer, DropBlock)} == {block_size}


def test_resnet12_is_the_same_under_vmap():
    backbone = build_backbone("resnet12", (3, 32, 32), "group")
    tasks = torch.randn(2, 1, 3, 32, 32)
    vmapped = torch.func.vmap(backbone, randomness="different")
    with torch.no_grad():
        assert vmapped(tasks).isfinite().all()  # in training, with DropBlock
        backbone.eval()
        torch.testing.assert_close(vmapped(tasks), torch.stack([backbone(t) for t in tasks]), rtol=1e-4, atol=1e-5)


def test_drop_block_zeroes_whole_blocks_and_keeps_the_mean():
    torch.manual_seed(0)
    maps = torch.ones(4, 8, 12, 12)
    layer = DropBlock(3)
    assert layer.probability(12, 12).item() == pytest.approx(0.1 / 9 * 144 / 100)
    dropped = layer(maps)
    assert dropped.mean() == pytest.approx(1, abs=1e-5)
    zeros = (dropped == 0).float()
    assert len({image.numpy().tobytes() for image in zeros}) == len(maps), "each image loses its own blocks"
    # Each zero lies in a block of zeros only: a morphological opening by the block removes none of them.
    blocks = (nn.functional.avg_pool2d(zeros, 3, stride=1) == 1).float()
    opened = nn.functional.max_pool2d(nn.functional.pad(blocks, (2, 2, 2, 2)), 3, stride=1)
    assert torch.equal(opened, zeros)
    assert zeros.mean() == pytest.approx(0.1, abs=0.02)  # less, as blocks overlap
    assert torch.equal(layer.eval()(maps), maps)


@pytest.mark.parametrize(("num_steps", "dropped"), [(0, 0), (10_000, 0.025), (40_000, 0.1), (90_000, 0.1)])
def test_drop_block_drops_more_with_every_training_step(num_steps, dropped):
    layer = DropBlock(1)
    layer.num_training_steps.fill_(num_steps)
    assert layer.probability(5, 5).item() == pytest.approx(dropped)


def test_a_training_tells_drop_block_its_steps_whatever_was_validated(tmp_path):
    def fit(max_steps, ckpt_path=None):
        model = ProtoNet(image_shape=(3, 16, 16), backbone="resnet12")
        episodes = DataLoader([random_episode(image_shape=(3, 16, 16))] * 4, batch_size=None)
        trainer = quiet_trainer(max_steps=max_steps, val_check_interval=1, num_sanity_val_steps=2)
        trainer.fit(model, episodes, episodes, ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return {layer.num_training_steps.item() for layer in drop_blocks(model)}

    assert fit(max_steps=2) == {1}  # one step had been taken before the second
    assert fit(max_steps=3, ckpt_path=tmp_path / "last.ckpt") == {2}


def test_drop_block_drops_as_much_in_half_precision():
    torch.manual_seed(0)
    layer = DropBlock(1)
    layer.num_training_steps.fill_(400)  # a thousandth, finer than the resolution of bfloat16's random numbers
    zeros = layer(torch.ones(100, 100, 10, 10, dtype=torch.bfloat16)) == 0
    assert zeros.float().mean().item() == pytest.approx(0.001, rel=0.05)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_atto"])
def test_maml_differentiates_twice_through_attention_and_layer_norm(name):
    shape = (1, 32, 32)
    episode = random_episode(image_shape=shape, num_shots=1, num_queries=1, dtype=torch.float64)

    def gradient(task_parallel):
        torch.manual_seed(0)
        model = MAML(num_ways=3, image_shape=shape, backbone=f"timm/{name}", task_parallel=task_parallel).double()
        return flat_gradient(model.training_losses(episode)["loss"], model)

    assert relative_error(gradient("vmap"), gradient("loop")) < 1e-10


# timm's weights --------------------------------------------------------------------------------------


def timm_model(name, **options):
    torch.manual_seed(0)
    return timm.create_model(name, **options).eval()


@pytest.fixture(params=["resnet18", "vit_tiny_patch16_224"])
def name_and_file(request, tmp_path):
    """A model with a classifier, as they are published, and the file with its weights."""
    file = tmp_path / "weights.pt"
    torch.save(timm_model(request.param, num_classes=10).state_dict(), file)
    return request.param, file


def test_weights_come_from_a_file(name_and_file):
    name, file = name_and_file
    images = torch.randn(1, 3, 224, 224)
    backbone = build_backbone(f"timm/{name}", (3, 224, 224), "running", str(file)).eval()
    published = timm_model(name, num_classes=10)
    published.reset_classifier(0)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), published(images))


def test_weights_are_fitted_to_grey_and_small_images(name_and_file):
    name, file = name_and_file
    backbone = build_backbone(f"timm/{name}", (1, 48, 48), "running", str(file)).eval()
    with torch.no_grad():
        assert backbone(torch.randn(2, 1, 48, 48)).isfinite().all()
    fitted, published = (
        network.patch_embed.proj.weight if "vit" in name else network.conv1.weight
        for network in (backbone, timm_model(name, num_classes=10))
    )
    torch.testing.assert_close(fitted, published.sum(1, keepdim=True))  # in a grey image, red = green = blue


def test_no_copy_of_the_file_stays_in_the_model(name_and_file):
    name, file = name_and_file
    backbone = build_backbone(f"timm/{name}", (3, 32, 32), "running", str(file))
    assert "state_dict" not in backbone.pretrained_cfg


def test_a_file_may_be_in_the_home_folder(name_and_file, monkeypatch):
    name, file = name_and_file
    monkeypatch.setenv("HOME", str(file.parent))
    build_backbone(f"timm/{name}", (3, 32, 32), "running", f"~/{file.name}")


def test_files_that_hold_no_such_weights_are_refused(tmp_path):
    other, text, tensor = tmp_path / "other.pt", tmp_path / "text.pt", tmp_path / "tensor.pt"
    torch.save(timm_model("resnet26").state_dict(), other)
    text.write_text("not weights")
    torch.save(torch.zeros(3), tensor)
    for file in (other, text, tensor):
        with pytest.raises(InputError, match=rf"{file.name} does not hold the weights of resnet18.*--model.backbone_w"):
            build_backbone("timm/resnet18", (3, 32, 32), "running", str(file))
    with pytest.raises(InputError, match=r"absent.pt does not exist: give --model.backbone_weights"):
        build_backbone("timm/resnet18", (3, 32, 32), "running", str(tmp_path / "absent.pt"))


def test_weights_that_cannot_be_had_are_refused_with_a_cure(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"weights of resnet18 are not in its cache .*: connect .* --model.backbone_w"):
        build_backbone("timm/resnet18", (3, 32, 32), "running", "pretrained")
    with pytest.raises(InputError, match=r"timm has no weights of davit_huge: leave out --model.backbone_weights"):
        build_backbone("timm/davit_huge", (3, 32, 32), "running", "pretrained")


def test_a_checkpoint_needs_no_weights_file(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(timm_model("resnet18").state_dict(), file)
    model = ProtoNet(image_shape=(3, 32, 32), backbone="timm/resnet18", backbone_weights=str(file))
    trainer = quiet_trainer()
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt")
    assert model.hparams["backbone_weights"] == str(file)
    file.unlink()
    loaded = ProtoNet.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


# timm's batch norms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_timms_networks_compute_the_same_with_our_batch_norms(name):
    # mobilenetv3's batch norms are timm's BatchNormAct2d: the activation is a part of them.
    images = torch.randn(2, 3, 32, 32)
    torch.manual_seed(0)
    backbone = build_backbone(f"timm/{name}", (3, 32, 32), "running")
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in backbone.modules())
    assert any(isinstance(layer, EpisodicBatchNorm2d) for layer in backbone.modules())
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(images), timm_model(name, num_classes=0)(images))


# Mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (
            "conv5",
            (1, 28, 28),
            "no backbone is called 'conv5': use one of conv4, .*, timm/<name>, or mlp",
        ),
        ("timm/resnet_eighteen", (3, 32, 32), "timm has no model 'resnet_eighteen': .*list_models"),
        ("resnet12", (1, 84, 84), "resnet12 takes colour images: use conv4"),
        ("wrn28_10", (1, 84, 84), "wrn28_10 takes colour images: use conv4"),
        ("timm/xcit_nano_12_p16_224", (3, 84, 84), "timm's xcit_nano_12_p16_224 takes no images of 84x84: use another"),
    ],
)
def test_backbones_that_cannot_be_are_refused_with_a_cure(name, shape, message):
    with pytest.raises(InputError, match=message):
        build_backbone(name, shape, "running")


@pytest.mark.parametrize(
    ("name", "shape"),
    [("conv4", (1, 15, 15)), ("resnet12", (3, 12, 12)), ("timm/levit_128s", (3, 84, 84))],
)
@pytest.mark.parametrize("algorithm", [ProtoNet, MAML])
def test_images_too_small_for_the_backbone_are_refused(algorithm, name, shape):
    with pytest.raises(InputError, match=r"do not pass through this backbone \(.+\): if they are too small for it, "):
        algorithm(image_shape=shape, backbone=name)


def test_weights_are_for_timms_backbones_only():
    with pytest.raises(InputError, match=r"backbone_weights are for timm/... backbones; 'conv4' starts from scratch"):
        build_backbone("conv4", (1, 28, 28), "running", "weights.pt")


def test_a_misspelt_norm_is_refused():
    with pytest.raises(InputError, match=r"norm must be one of transductive, .*, not 'batch'"):
        build_backbone("conv4", (1, 28, 28), "batch")
