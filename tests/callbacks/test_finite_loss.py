"""FiniteLoss: a step that is not finite leaves no trace, whether training stops or goes on."""

import hashlib
import math
from types import SimpleNamespace

import pytest
import torch
from episodes import IMAGE_SHAPE, NUM_WAYS, random_episode
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import LambdaCallback, ModelCheckpoint
from pytorch_lightning.plugins.precision import MixedPrecision
from quiet_trainer import quiet_trainer
from torch.func import functional_call
from torch.utils.data import DataLoader

from fewshot_pl.algorithms import MAML, ProtoNet, Reptile
from fewshot_pl.callbacks import FiniteLoss, finite_loss
from fewshot_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::Warning:pytorch_lightning")
ALGORITHMS = {
    ProtoNet: {},  # with running statistics, which are buffers
    MAML: {"num_ways": NUM_WAYS, "inner_lr": 0.05, "num_inner_steps": 2, "norm": "running"},
    # With the inner Adam's second moment; its default schedule would depend on the length of the training.
    Reptile: {"num_ways": NUM_WAYS, "num_inner_steps": 3, "lr_halve_every": 100},
}


def made(algorithm, **arguments):
    torch.manual_seed(0)
    return algorithm(image_shape=IMAGE_SHAPE, backbone="conv4-32", **{**ALGORITHMS[algorithm], **arguments})


def loader(*kinds):
    """A batch for each letter: an ``x`` contains a nan, others do not."""
    episodes = [random_episode(seed=seed)._replace(known_ways=NUM_WAYS) for seed in range(len(kinds))]
    for episode, kind in zip(episodes, kinds, strict=True):
        if kind == "x":
            episode.support_x[0, 0, 0, 0, 0] = episode.query_x[0, 0, 0, 0, 0] = math.nan
    return DataLoader(episodes, batch_size=None)


def trainer(*callbacks, **arguments):
    return quiet_trainer(*callbacks, **{"max_epochs": 1, **arguments})


def state_hash(model, fitting):
    """A hash of every bit of the parameters, the buffers and the optimiser's state."""
    optimizer = fitting.optimizers[0].state_dict()["state"]
    tensors = [*model.state_dict().values(), *(value for one in optimizer.values() for value in one.values())]
    return hashlib.sha256(b"".join(torch.as_tensor(value).numpy().tobytes() for value in tensors)).hexdigest()


@pytest.mark.parametrize("device", ["cpu", "accelerator"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_stops_and_the_last_checkpoint_is_from_before(algorithm, device, tmp_path, monkeypatch):
    if device == "accelerator":  # so that the guard does not check every step
        monkeypatch.setattr(finite_loss, "reads_freely", lambda device: False)
    keeping = ModelCheckpoint(tmp_path, filename="last", save_on_exception=True, enable_version_counter=False)
    trainer().fit(model := made(algorithm), loader("a", "b"))
    told = f"step 3 of {algorithm.__name__} had a loss or gradient that is not finite.*learning_rate.*--nonfinite skip"
    stopping = trainer(
        FiniteLoss(), keeping, max_epochs=2, enable_checkpointing=True, reload_dataloaders_every_n_epochs=1
    )
    second = made(algorithm)
    second.train_dataloader = lambda: loader("a", "bx"[stopping.current_epoch])
    with pytest.raises(InputError, match=told):
        stopping.fit(second)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 2
    for name, value in model.state_dict().items():
        assert torch.equal(kept["state_dict"][name], value)
    with pytest.raises(InputError, match="step 3"):
        stopping.save_checkpoint(tmp_path / "more.ckpt")
    assert not (tmp_path / "more.ckpt").exists()


def test_an_accelerator_is_asked_every_so_many_steps_and_before_a_validation(monkeypatch):
    monkeypatch.setattr(finite_loss, "reads_freely", lambda device: False)
    for kinds, num_steps in (("axbcdef", 3), ("ax", 2)):
        model, validated = made(ProtoNet), []
        monkeypatch.setattr(model, "validation_step", lambda *_, seen=validated: seen.append(1))
        fitting = trainer(FiniteLoss(every_n_steps=3), num_sanity_val_steps=0)
        with pytest.raises(InputError, match="step 1 of ProtoNet"):
            fitting.fit(model, loader(*kinds), loader("a"))
        assert fitting.global_step == num_steps and not validated


def test_a_training_that_was_stopped_does_not_stop_the_next():
    guard = FiniteLoss()
    with pytest.raises(InputError, match="step 1"):
        trainer(guard).fit(made(ProtoNet), loader("a", "x"))
    model = made(ProtoNet)
    trainer(guard).validate(model, loader("a"), verbose=False)
    with_sanity_check = trainer(guard, num_sanity_val_steps=1)
    with_sanity_check.fit(model, loader("a", "b"), loader("a"))
    assert with_sanity_check.global_step == 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_skipped_step_leaves_no_bit_behind(algorithm):
    states = []
    for kinds in ("ab", "abx"):
        fitting = trainer(guard := FiniteLoss("skip"))
        fitting.fit(model := made(algorithm), loader(*kinds))
        states.append(state_hash(model, fitting))
    assert states[0] == states[1] and guard.num_skipped == 1
    trainer(FiniteLoss("skip")).fit(after := made(algorithm), loader("a", "x", "c"))
    assert all(value.isfinite().all() for value in after.state_dict().values())


def test_after_a_skipped_step_buffers_are_as_other_callbacks_had_left_them():
    def move(fitting, model, *_):
        if fitting.global_step == 1:
            next(model.buffers()).add_(1)

    states = []
    for kinds in ("a", "ax"):
        moving = LambdaCallback(on_train_batch_end=move)
        trainer(FiniteLoss("skip"), moving).fit(model := made(ProtoNet), loader(*kinds))
        states.append(model.state_dict())
    assert all(map(torch.equal, states[0].values(), states[1].values()))


def test_of_accumulated_batches_one_leaves_out_the_step():
    whole, accumulated = made(ProtoNet), made(ProtoNet)
    trainer(FiniteLoss("skip"), accumulate_grad_batches=2).fit(whole, loader("a", "b"))
    trainer(FiniteLoss("skip"), accumulate_grad_batches=2).fit(accumulated, loader("a", "b", "x", "d", "e", "x"))
    assert all(map(torch.equal, whole.state_dict().values(), accumulated.state_dict().values()))


def test_skipped_steps_are_counted_aloud_but_do_not_fill_the_log(recwarn):
    trainer(guard := FiniteLoss("skip")).fit(made(ProtoNet), loader(*"xaxxxxx"))
    told = [str(one.message) for one in recwarn if "skipped" in str(one.message)]
    assert guard.num_skipped == 6
    assert [line.split(" had")[0] for line in told[:-1]] == [f"step {step} of ProtoNet" for step in (0, 2, 4)]
    assert told[-2].endswith("4 so far") and told[-1].startswith("6 steps were skipped")


def first_broken_step(model, episode):
    """The first non-finite step, by plain gradient descent on the mean squared error, task by task."""
    broken = []
    for support_x, support_y, query_x in zip(*episode[:3], strict=True):
        parameters = {name: value.detach().requires_grad_() for name, value in model.learner.named_parameters()}
        for step in range(model.num_inner_steps + 1):
            if not functional_call(model.learner, parameters, (query_x,)).isfinite().all():
                broken.append(step)
                break
            loss = (functional_call(model.learner, parameters, (support_x,)) - support_y).square().mean()
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            parameters = {
                name: (value - model.inner_lr * gradient).detach().requires_grad_()
                for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
            }
    return min(broken)


@pytest.mark.parametrize("inner_lr", [3.0, 1e3, 1e12])
def test_the_inner_step_is_named_where_numbers_stop_being_finite(inner_lr):
    torch.manual_seed(0)
    model = MAML(
        num_ways=1, image_shape=(1, 1, 1), backbone="mlp-16", norm="none", inner_lr=inner_lr, num_inner_steps=8
    )
    points = torch.randn(2, 10, 1, 1, 1)
    episode = random_episode()._replace(support_x=points, query_x=points, known_ways=1)
    episode = episode._replace(support_y=points.flatten(2).sin(), query_y=points.flatten(2).sin())
    step = first_broken_step(model, episode)
    assert step > 1
    with pytest.raises(InputError, match=rf"step 0 of MAML .* from inner step {step} on: lower --model.inner_lr or"):
        trainer(FiniteLoss()).fit(model, DataLoader([episode], batch_size=None))


def test_what_is_broken_from_the_start_and_what_takes_no_steps_is_said_so():
    model = made(MAML)
    with torch.no_grad():
        model.learner.head.bias[0] = math.inf
    with pytest.raises(InputError, match="not finite, before the first inner step: "):
        trainer(FiniteLoss()).fit(model, loader("a"))
    with pytest.raises(InputError, match="step 0 of ProtoNet had a loss or gradient that is not finite: "):
        trainer(FiniteLoss()).fit(made(ProtoNet), loader("x"))


class Halved(LightningModule):
    """Loss w^2/2 at a rate of 1/2, so that each step halves w; on the last rank step 1 adds infinity to the loss."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.weight = folder, torch.nn.Parameter(torch.tensor(1.0))

    def training_step(self, batch, batch_idx):
        broken = batch_idx == 1 and self.global_rank == self.trainer.world_size - 1
        return self.weight**2 / 2 + (math.inf if broken else 0.0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def on_train_end(self):
        (self.folder / str(self.global_rank)).write_text(str(self.weight.item()))


def test_an_infinite_loss_with_a_finite_gradient_is_skipped_in_every_process(tmp_path):
    fitting = trainer(FiniteLoss("skip"), strategy="ddp_fork", devices=2)
    fitting.fit(Halved(tmp_path), DataLoader(range(6), batch_size=None))
    assert [float(path.read_text()) for path in tmp_path.iterdir()] == [0.25, 0.25]


def test_the_loss_scaler_of_16_bit_keeps_its_gradients():
    """It raises its scale until gradients overflow, and then skips the step itself."""
    model = made(ProtoNet)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)
    optimizer = torch.optim.Adam(model.parameters())
    scaled, plain = SimpleNamespace(precision_plugin=MixedPrecision("16-mixed", "cpu")), trainer()
    assert finite_loss._finite_gradient(scaled, optimizer) == []
    assert not finite_loss._finite_gradient(plain, optimizer)[0]


@pytest.mark.parametrize("value", [1e30, 1e38, -1e38])
def test_a_large_gradient_is_finite_though_its_euclidean_norm_and_its_sum_overflow(value):
    model = made(ProtoNet)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)
    optimizer = torch.optim.Adam(model.parameters())
    assert finite_loss._finite_gradient(trainer(), optimizer)[0]
    gradient = list(model.parameters())[-1].grad
    for broken in (math.nan, math.inf, -math.inf):
        gradient.view(-1)[-1] = broken
        assert not finite_loss._finite_gradient(trainer(), optimizer)[0]
