"""Reptile's toy problem (Nichol et al. 2018, section 6.1): training brings sinusoids within reach of a few steps."""

import math
from pathlib import Path

import torch
import yaml

from fewshot_pl.algorithms import Reptile
from fewshot_pl.benchmarks import Sinusoid

CONFIGS = Path(__file__).parents[2] / "configs" / "paper"
NUM_ITERATIONS = 350


def test_the_configuration_goes_once_through_the_points_of_a_task_in_mini_batches():
    config = yaml.safe_load((CONFIGS / "reptile_sinusoid_10shot.yaml").read_text("utf-8"))
    data, arguments = Sinusoid(**config["data"]["init_args"]), config["model"]["init_args"]
    model = Reptile(num_ways=1, image_shape=data.image_shape, **arguments)
    batch = next(iter(data.train_dataloader()))
    num_points = batch.support_x.shape[1] + batch.query_x.shape[1]
    steps = model._shuffled(1, num_points)
    assert steps.shape == (1, 5, 10) and steps.flatten().sort().values.tolist() == [*range(50)]


def test_eight_steps_fit_a_sinusoid_after_training_and_not_before():
    torch.manual_seed(0)
    # More steps per task than in the configuration, but fewer tasks.
    sizes = {"num_shots": 10, "num_queries": 50, "train_num_shots": 5, "train_num_queries": 5}
    schedule = {"tasks_per_batch": 1, "batches_per_epoch": NUM_ITERATIONS, "num_val_episodes": 200}
    data = Sinusoid(**sizes, **schedule, eval_tasks_per_batch=200, largest_phase=2 * math.pi)
    model = Reptile(
        num_ways=1,
        image_shape=data.image_shape,
        backbone="mlp-64-64-tanh",
        norm="none",
        inner_optimizer="sgd",
        inner_lr=0.02,
        inner_loss_reduction="mean",
        num_inner_steps=32,
        num_inner_steps_test=8,
        inner_batch_size_test=10,
    )
    episode = next(iter(data.val_dataloader()))

    def error():
        model.eval()
        with torch.no_grad():
            squared = (model(episode) - episode.query_y).square().mean().item()
        model.train()
        return squared

    before = error()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / NUM_ITERATIONS)
    for batch in data.train_dataloader():
        optimizer.zero_grad()
        model.training_losses(batch)["loss"].backward()
        optimizer.step()
        falling.step()
    # An untrained network stays near the variance of the curves; 15,000 iterations reach 0.2.
    assert before > 3
    assert error() < 1.8
