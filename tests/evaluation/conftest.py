"""Small checkpoints, trained once, on a folder of random images in which one class has a name like HTML."""

import pytest
from random_images import write_image_folder

from fewshot_pl.cli import train

CLASS = "<script>alert('&')<"  # without a slash, as it is the name of a folder
CPU = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The paths of two ProtoNets, a MAML and a Reptile of 3 ways, and two methods of regression."""
    root = tmp_path_factory.mktemp("evaluation")
    write_image_folder(root / "images", num_classes=6, num_images=8, size=16)
    (root / "images" / "test" / "test0").rename(root / "images" / "test" / CLASS)
    images = {"root": root / "images", "image_size": 16, "channels": 1, "num_ways": 3, "num_queries": 2}
    counts = {"batches_per_epoch": 2, "num_val_episodes": 3, "num_test_episodes": 20, "eval_tasks_per_batch": 3}

    def trained(algorithm: str, data: str, number: int, settings: dict[str, object], *more: str) -> str:
        flags = [f"--data.{name}={value}" for name, value in {**settings, **counts}.items()]
        flags += ["--data", data, "--runs", str(root / "runs"), "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
        assert train(["--model", algorithm, *more, *flags]) == 0
        return str(root / "runs" / data / algorithm / str(number) / "checkpoints" / "best.ckpt")

    images |= {"cache_dir": root / "cache"}
    mlp = ["--model.backbone=mlp-4", "--model.norm=none"]
    return {
        "first": trained("ProtoNet", "ImageFolder", 0, images, "--seed_everything=0"),
        "second": trained("ProtoNet", "ImageFolder", 1, images, "--seed_everything=1"),
        "maml": trained("MAML", "ImageFolder", 0, images, "--model.inner_lr=0.1"),
        "reptile": trained("Reptile", "ImageFolder", 0, images, "--model.num_inner_steps_test=2"),
        "sinusoid": trained("MAML", "Sinusoid", 0, {"num_shots": 5}, *mlp),
        "other sinusoid": trained("Reptile", "Sinusoid", 0, {"num_shots": 5}, *mlp, "--model.num_inner_steps_test=1"),
    }


@pytest.fixture(scope="session")
def cpu() -> list[str]:
    """The flags of a quiet evaluation."""
    return CPU
