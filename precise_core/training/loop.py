"""The one training loop: both stages differ in the loss they hand to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from precise_core.errors import TrainingError
from precise_core.feed.windows import SequenceBatch, WindowFeed
from precise_core.models.precise import Precise
from precise_core.training import distribution
from precise_core.training.config import LoopConfig, OptimizerConfig
from precise_core.training.progress import Progress
from precise_core.training.resume import Counters, ResumeStore
from precise_core.training.validation import NDCG

LossFunction = Callable[[SequenceBatch, torch.Generator], torch.Tensor | None]
Validate = Callable[[], dict[str, float]]

_LOG_EVERY_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything one training needs.

    Attributes:
        model: Trained in place; holds the best epoch's weights at the end.
        loss: The loss of one batch; None where the batch has nothing to learn from.
        validate: Figures on the validation slice; the NDCG among them decides.
        resume: Where the state of the run is kept.
    """

    description: str
    model: Precise
    loss: LossFunction
    feed: WindowFeed
    validate: Validate
    config: LoopConfig
    resume: ResumeStore
    seed: int
    progress: Progress


@dataclass(frozen=True)
class TrainingResult:
    """``best_epoch`` 0 = the weights the training started from."""

    best_epoch: int
    metrics: dict[str, float]
    log: list[dict[str, Any]]


def train(training: Training) -> TrainingResult:
    """Train until the epochs are used up or validation has not improved for ``patience`` epochs.

    Raises:
        TrainingError: A loss is not finite, or no batch of an epoch had anything to learn from.
    """
    with torch.random.fork_rng(devices=[]):
        return _Run(training).run()


def learning_rate_at(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """Linear warm-up over the first steps (at most half of all), then a cosine to a tenth."""
    warmup = min(config.warmup_steps, total_steps // 2)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return config.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


class _Run:
    """The state of ``train``."""

    def __init__(self, training: Training) -> None:
        self.t = training
        self.total_steps = training.config.epochs * training.feed.num_steps
        optimizer = training.config.optimizer
        self.optimizer = torch.optim.AdamW(
            [parameter for parameter in training.model.parameters() if parameter.requires_grad],
            lr=optimizer.learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            weight_decay=optimizer.weight_decay,
            fused=True,
        )
        self.at = Counters()
        self.best: dict[str, torch.Tensor] = {}
        self.last_log = (time.monotonic(), 0)

    def run(self) -> TrainingResult:
        t = self.t
        t.progress.start(self.total_steps, t.description)
        resumed = t.resume.load(t.model, self.optimizer)
        if resumed is None:
            self._look(epoch=0)
        else:
            self.at, self.best = resumed
            t.progress.advance(self.at.step, units=0)
        while self.at.epoch <= t.config.epochs and not self.at.is_finished:
            self._epoch()
        t.progress.finish()
        t.model.load_state_dict(self.best)
        t.model.eval()
        return TrainingResult(self.at.best_epoch, self._metrics_of(self.at.best_epoch), self.at.log)

    def _epoch(self) -> None:
        t, at = self.t, self.at
        t.model.train()
        self.last_log = (time.monotonic(), at.step)
        for batch in t.feed.epoch(at.epoch, first_step=at.step_in_epoch):
            self._step(batch)
            if at.step_in_epoch < t.feed.num_steps and at.step % t.config.checkpoint_every_steps == 0:
                self._save()
        self._write_log_line()
        self._look(epoch=at.epoch)
        at.is_finished = at.epochs_without_gain >= t.config.patience
        at.epoch, at.step_in_epoch = at.epoch + 1, 0
        self._save()

    def _step(self, batch: SequenceBatch) -> None:
        t, at = self.t, self.at
        # Randomness depends on (seed, step, rank) alone, so that a resumed run draws what it would have drawn.
        seed = hash((t.seed, at.step, distribution.rank())) % 2**63
        torch.manual_seed(seed)
        loss = t.loss(batch, torch.Generator().manual_seed(seed))
        if distribution.any_rank(loss is not None and not math.isfinite(loss.item())):
            raise TrainingError(f"{t.description}: loss is not finite at step {at.step + 1}; {self._last_good()}")
        if distribution.any_rank(loss is not None):
            self._update(loss)
        at.step, at.step_in_epoch = at.step + 1, at.step_in_epoch + 1
        if loss is not None:
            at.loss_sum, at.loss_count = at.loss_sum + loss.item(), at.loss_count + 1
            t.progress.advance(1, units=len(batch.lengths_B), loss=loss.item())
        if at.step % _LOG_EVERY_STEPS == 0:
            self._write_log_line()

    def _update(self, loss: torch.Tensor | None) -> None:
        t = self.t
        self.optimizer.zero_grad(set_to_none=True)
        if loss is not None:
            loss.backward()
        distribution.average_gradients(t.model)
        torch.nn.utils.clip_grad_norm_(t.model.parameters(), t.config.optimizer.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.at.step, self.total_steps, t.config.optimizer)
        self.optimizer.step()

    def _look(self, epoch: int) -> None:
        """Validate, and keep the weights if they are the best so far."""
        at = self.at
        metrics = distribution.from_first_rank(self.t.validate())
        at.log.append({"epoch": epoch, "step": at.step, **metrics})
        if metrics[NDCG] > at.best_metric:
            at.best_metric, at.best_epoch, at.epochs_without_gain = metrics[NDCG], epoch, 0
            self.best = {name: tensor.detach().clone() for name, tensor in self.t.model.state_dict().items()}
        else:
            at.epochs_without_gain += 1
        self.t.progress.advance(0, units=0, **metrics)

    def _write_log_line(self) -> None:
        at, t = self.at, self.t
        if not at.loss_count:
            return
        seconds, steps = time.monotonic() - self.last_log[0], at.step - self.last_log[1]
        line = {
            "epoch": at.epoch,
            "step": at.step,
            "loss": at.loss_sum / at.loss_count,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "sequences_per_second": round(steps * t.config.batch_size / max(seconds, 1e-9), 1),
        }
        load = t.model.fusion.expert_load()
        at.log.append(line | ({"expert_load": load} if load else {}))
        at.loss_sum, at.loss_count = 0.0, 0
        self.last_log = (time.monotonic(), at.step)

    def _save(self) -> None:
        if distribution.rank() == 0:
            self.t.resume.save(self.at, self.t.model, self.best, self.optimizer)

    def _last_good(self) -> str:
        return f"the last good state (epoch {self.at.best_epoch}) is kept; lower optimizer.learning_rate"

    def _metrics_of(self, epoch: int) -> dict[str, float]:
        lines = [line for line in self.at.log if line["epoch"] == epoch and NDCG in line]
        return {name: value for name, value in lines[-1].items() if name.startswith("validation_")}
