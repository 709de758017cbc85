"""PLATIPUS, or Probabilistic MAML (Finn, Xu, Levine 2018)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from fewshot_pl.algorithms.adaptation import learner_gradient
from fewshot_pl.algorithms.arguments import at_least
from fewshot_pl.algorithms.base import QueryPredictor
from fewshot_pl.algorithms.maml import MAML
from fewshot_pl.episode import Episode
from fewshot_pl.errors import InputError
from fewshot_pl.functional.gaussians import gaussian_kl
from fewshot_pl.functional.inner_loop import Parameters
from fewshot_pl.functional.noise import normal_noise
from fewshot_pl.functional.precision import at_least_float32
from fewshot_pl.metrics import training_accuracy


class PLATIPUS(MAML):
    """Learn a distribution of weights, sample from it, and adapt each sample to a task as in MAML.

    p(theta | support) = N(mu - gamma_p grad L(mu; support), sigma^2) and, in training only,
    q(theta | query) = N(mu - gamma_q grad L(mu; query), v_q). A training task draws theta from q and adapts it to the
    support by ``num_inner_steps`` of descent, to phi. It minimises L(phi; query) + kl_weight KL(q || p), a bound on the
    likelihood, through all of these steps (algorithm 1). An evaluation draws ``num_samples`` thetas from p, with the
    same normal numbers for every task, and predicts the mean of their probabilities after adaptation, or of their
    outputs in regression (algorithm 2). Learned: mu, sigma^2, v_q, gamma_p, gamma_q. Adapted: each sample of theta.

    L(phi; query) is the mean over the queries, as the authors' kl_weight of 0.1 assumes, and the KL is the sum over all
    P parameters. The exact bound for n queries would be kl_weight = 1/n in classification, and 2 s^2 / n in
    regression under noise of standard deviation s; a larger one gives up fit for a p that covers more of q.

    Differs from the paper's code: batch norm and initial weights are as in our MAML; only the Trainer clips gradients;
    log-variances are kept within -10 to 2.

    Args:
        kl_weight: weight of the divergence; the paper takes 0.1 for its toy problems, 0.05 to 0.15 for CelebA.
        num_samples: number of thetas per evaluated task.
        num_training_samples: number of thetas per training task.
        gamma: learn one step size ``per_parameter``, as in the paper, or one ``scalar`` for all.
        initial_gamma: initial value of gamma_p and gamma_q.
        initial_deviation: initial standard deviation of theta, the square root of sigma^2 and v_q.
        init_from: a MAML checkpoint to take mu from; pass the same settings as that MAML had.
        inner_loss_reduction: as in MAML, also for the steps of size gamma.
        first_order: treat inner gradients as constants, also those of the steps of size gamma.
    """

    argument_ranges = at_least(1, "num_samples", "num_training_samples") | at_least(0, "kl_weight")
    log_variance_range = (-10.0, 2.0)  # deviations of 0.007 to 2.7
    takes_side_by_side = False
    sample_noise: Tensor  # [S, P]

    def __init__(
        self,
        kl_weight: float = 0.1,
        num_samples: int = 10,
        num_training_samples: int = 1,
        gamma: Literal["per_parameter", "scalar"] = "per_parameter",
        initial_gamma: float = 0.01,
        initial_deviation: float = 0.02,
        init_from: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        least, most = (math.exp(bound / 2) for bound in self.log_variance_range)
        if not least <= initial_deviation <= most:
            raise InputError(
                f"--model.initial_deviation must be between {least:.4f} and {most:.4f}, not {initial_deviation}"
            )
        self.kl_weight = kl_weight
        self.num_samples = num_samples
        self.num_training_samples = num_training_samples
        if init_from is not None:
            self._take_weights_of(Path(init_from).expanduser())
        num_parameters = len(self.learner.point())
        shape = (num_parameters,) if gamma == "per_parameter" else ()
        self.gamma_p = nn.Parameter(torch.full(shape, initial_gamma))
        self.gamma_q = nn.Parameter(torch.full(shape, initial_gamma))
        log_variance = torch.full((num_parameters,), 2 * math.log(initial_deviation))
        self.log_variance_p = nn.Parameter(log_variance.clone())  # log sigma^2 [P]
        self.log_variance_q = nn.Parameter(log_variance.clone())  # log v_q [P]
        # Common random numbers: no figure depends on which tasks are evaluated together.
        self.register_buffer("sample_noise", normal_noise("PLATIPUS", num_samples, num_parameters), persistent=False)
        self._ddp_params_and_buffers_to_ignore = ["sample_noise"]  # all have it; torch would send it at every step

    # Training ------------------------------------------------------------------------------------------

    def training_losses(self, batch: Episode) -> dict[str, Tensor]:
        self.checked_ways(batch)
        noise = self.task_noise(batch.num_tasks, self.num_training_samples, len(self.log_variance_q))
        inputs = *batch[:4], noise
        if self.accumulates_task_gradients(batch):
            loss, query_loss, kl, outputs = self.map_tasks(PLATIPUS._task_losses, *inputs, loss_first=True)
        else:
            outputs, kl = self.map_tasks(PLATIPUS._sampled_from_q, *inputs)  # [T, S, N*Q, N], [T]
            loss, query_loss = self._bound(outputs, batch.query_y, kl)
        accuracy = training_accuracy(outputs.detach().mean(1), batch.query_y)
        return {"loss": loss, "query_loss": query_loss.mean(), "kl": kl.mean(), **accuracy}

    def _task_losses(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The loss [] of one task, its two parts, and the outputs [S, N*Q, N] at the S samples of noise [S, P]."""
        outputs, kl = self._sampled_from_q(support_x, support_y, query_x, query_y, noise)
        return *self._bound(outputs[None], query_y[None], kl), kl, outputs

    def _bound(self, outputs: Tensor, query_y: Tensor, divergences: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [] of T tasks and its part on the queries [], from outputs [T, S, N*Q, N] and divergences [T]."""
        targets = query_y.unsqueeze(1).expand(-1, outputs.shape[1], *query_y.shape[1:])
        query_loss = self.query_loss(outputs, targets)
        return query_loss + self.kl_weight * divergences.mean(), query_loss

    def _sampled_from_q(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The outputs [S, N*Q, N] of one task at adapted samples of q, drawn with noise [S, P], and KL(q || p) []."""

        def loss_on_query(parameters: Parameters) -> Tensor:
            return self.inner_loss(self.logits_at(parameters, support_x, query_x), query_y)

        log_p, log_q = self._log_variances()
        mean_p, mean_q = self._mean_of_p(support_x, support_y), self._mean(loss_on_query, self.gamma_q)
        thetas = mean_q + (log_q / 2).exp() * noise
        phis = self._adapted_samples(thetas, support_x, support_y, self.num_steps)
        return self._outputs_at(phis, support_x, query_x), gaussian_kl(mean_q, log_q, mean_p, log_p)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        for log_variance in (self.log_variance_p, self.log_variance_q):
            log_variance.detach().clamp_(*self.log_variance_range)  # outside, its gradient would stay 0

    # Evaluation ----------------------------------------------------------------------------------------

    def sampled_outputs(
        self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_steps: int | None = None
    ) -> Tensor:
        """The logits, or in regression the predictions, of one task's queries at each adapted sample of p.

        Their spread over the samples shows how uncertain the model is.

        Args:
            support_x: [N*K, C, H, W].
            support_y: [N*K], or in regression [N*K, D].
            query_x: [n, C, H, W].
            num_steps: of each sample's adaptation; default as in the current mode, training or test.

        Returns:
            [S, n, N], or in regression [S, n, D], for the S = ``num_samples`` samples.
        """
        return self._outputs_at(self._samples_of_p(support_x, support_y, num_steps), support_x, query_x)

    def predictor(self, support_x: Tensor, support_y: Tensor, num_ways: int) -> QueryPredictor:
        phis = self._samples_of_p(support_x, support_y)
        return lambda query_x: _mean_prediction(self._outputs_at(phis, support_x, query_x), support_y)

    def adaptation_curve(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, num_ways: int) -> Tensor:
        outputs = [self.sampled_outputs(support_x, support_y, query_x, steps) for steps in range(self.num_steps + 1)]
        return torch.stack([_mean_prediction(sampled, support_y) for sampled in outputs])

    def adapted(self, support_x: Tensor, support_y: Tensor, num_steps: int) -> Parameters:
        # From the mean of p, its most probable theta.
        mean = self.learner.parameters_at(self._mean_of_p(support_x, support_y))
        return self.adapted_from(mean, support_x, support_y, num_steps)

    @property
    def learned_step_sizes(self) -> dict[str, Tensor]:
        gammas = {"gamma_p": self.gamma_p.detach(), "gamma_q": self.gamma_q.detach()}
        if not self.gamma_p.ndim:
            return gammas
        layers = {name: self.learner.parameters_at(gamma) for name, gamma in gammas.items()}
        return {f"{name}/{layer}": sizes for name, of in layers.items() for layer, sizes in of.items()}

    def _samples_of_p(self, support_x: Tensor, support_y: Tensor, num_steps: int | None = None) -> list[Parameters]:
        """``num_samples`` thetas of one task's p after ``num_steps`` steps each, by default ``self.num_steps``."""
        thetas = self._mean_of_p(support_x, support_y) + (self._log_variances()[0] / 2).exp() * self.sample_noise
        num_steps = self.num_steps if num_steps is None else num_steps
        return self._adapted_samples(thetas, support_x, support_y, num_steps)

    # Both ----------------------------------------------------------------------------------------------

    def _mean_of_p(self, support_x: Tensor, support_y: Tensor) -> Tensor:
        """mu - gamma_p grad L(mu; support) [P]."""

        def loss_on_support(parameters: Parameters) -> Tensor:
            return self.inner_loss(functional_call(self.learner, parameters, (support_x,)), support_y)

        return self._mean(loss_on_support, self.gamma_p)

    def _mean(self, loss: Callable[[Parameters], Tensor], gamma: Tensor) -> Tensor:
        """The point [P] after a gradient step from mu on a loss, with step sizes ``gamma``."""
        mu = self.learner.point()
        (gradient,) = learner_gradient(self.learner, lambda parameters: (loss(parameters),), mu, self.first_order)
        return mu - gamma * gradient

    def _adapted_samples(
        self, thetas: Tensor, support_x: Tensor, support_y: Tensor, num_steps: int
    ) -> list[Parameters]:
        """The learner's parameters after ``num_steps`` steps on one task's support from each theta of [S, P]."""
        starts = [self.learner.parameters_at(theta) for theta in thetas]
        return [self.adapted_from(start, support_x, support_y, num_steps) for start in starts]

    def _outputs_at(self, phis: list[Parameters], support_x: Tensor, query_x: Tensor) -> Tensor:
        """The outputs [S, n, N] of one task's queries at each of the S parameters."""
        return torch.stack([self.logits_at(phi, support_x, query_x) for phi in phis])

    def _log_variances(self) -> tuple[Tensor, Tensor]:
        low, high = self.log_variance_range
        return self.log_variance_p.clamp(low, high), self.log_variance_q.clamp(low, high)

    def _take_weights_of(self, path: Path) -> None:
        if not path.is_file():
            raise InputError(f"there is no checkpoint {path}: give --model.init_from a checkpoint of MAML")
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
            algorithm, state, trained = (checkpoint[key] for key in ("algorithm", "state_dict", "hyper_parameters"))
            prefix = "learner."
            learner = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            settings = {name: trained.get(name) for name in ("backbone", "norm", "norm_eps", "num_ways")}
        except Exception as error:  # broken bytes make torch raise anything
            raise InputError(f"{path} is no checkpoint: give --model.init_from one of MAML by train.py") from error
        if algorithm != "MAML":
            raise InputError(f"{path} holds a {algorithm}: give --model.init_from a checkpoint of MAML")
        told = ", ".join(f"{name} {'null' if value is None else value}" for name, value in settings.items())
        refusal = InputError(f"the MAML in {path} was trained with {told}: pass the same --model flags")
        if any(settings[name] != self.hparams[name] for name in ("norm", "norm_eps")):  # which weights do not show
            raise refusal
        try:
            self.learner.load_state_dict(learner)
        except RuntimeError as error:
            raise refusal from error


def _mean_prediction(outputs: Tensor, targets: Tensor) -> Tensor:
    """The logarithms [n, N] of mean probabilities, from logits [S, n, N]; in regression the mean [n, D].

    Args:
        outputs: those of the S samples.
        targets: those of the task, real numbers in regression.
    """
    if targets.is_floating_point():
        return outputs.mean(0)
    log_probabilities = F.log_softmax(at_least_float32(outputs), -1)
    return log_probabilities.logsumexp(0) - math.log(len(outputs))
