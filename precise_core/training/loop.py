"""The one training loop: both stages, and every model, differ in the loss they hand to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from precise_core.errors import NothingToLearnError, TrainingError
from precise_core.feed.windows import SequenceBatch, WindowFeed, window_ids
from precise_core.models.precise import Precise
from precise_core.training import alternate
from precise_core.training import collectives as distribution
from precise_core.training.config import AlternateConfig, LoopConfig
from precise_core.training.optimizer import Optimizer, keep_freed_memory, learning_rate_at
from precise_core.training.resume import Counters, ResumeStore
from precise_core.training.validation import NDCG
from precise_core.training.watching import MetricsLog, Progress


@dataclass(frozen=True)
class BatchLoss:
    """The loss of one batch: a mean over ``weight`` terms, by which batches and ranks are weighed."""

    mean: torch.Tensor
    weight: int


LossFunction = Callable[[SequenceBatch, torch.Generator], BatchLoss | None]
Validate = Callable[[], dict[str, float]]

_LOG_EVERY_STEPS = 20
_NAMED_IN_ERROR = 10


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything one training needs.

    Attributes:
        model: Trained in place; holds the best epoch's weights at the end.
        loss: The loss of one batch; None where the batch has nothing to learn from.
        validate: Figures on the validation slice; the NDCG among them decides.
        resume: Where the state of the run is kept.
        alternate: How to train the id table first; None = never.
        logs: Folder of the figures to watch while it runs; None = nowhere.
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
    alternate: AlternateConfig | None = None
    logs: Path | None = None


@dataclass(frozen=True)
class TrainingResult:
    """``best_epoch`` 0 = the weights the training started from."""

    best_epoch: int
    metrics: dict[str, float]
    log: list[dict[str, Any]]


def train(training: Training) -> TrainingResult:
    """Train until the epochs are used up or validation has not improved for ``patience`` epochs.

    Raises:
        TrainingError: A loss or a gradient is not finite, and the message names the batch and its windows; or the ranks
            do not find the same state to continue from.
        NothingToLearnError: No batch of an epoch has a loss.
    """
    keep_freed_memory()
    run = _Run(training)
    with torch.random.fork_rng(devices=[]):
        try:
            return run.run()
        finally:
            run.close()


class _Run:
    """The state of ``train``."""

    def __init__(self, training: Training) -> None:
        self.t = training
        self.updates_per_epoch = -(-training.feed.num_steps // training.config.accumulate_batches)
        self.total_steps = training.config.epochs * self.updates_per_epoch
        self.optimizer = Optimizer(training.model, training.config.optimizer)
        self.at = Counters()
        self.best: dict[str, torch.Tensor] = {}
        self.ids_before = torch.empty(0)
        self.last_log, self.windows_since_log = time.monotonic(), 0
        self.log = MetricsLog(None)
        self.saved_step = 0

    def run(self) -> TrainingResult:
        t = self.t
        t.progress.start(self.total_steps, t.description)
        resumed = t.resume.load(t.model, self.optimizer)
        if resumed is not None:
            self.at, self.best, self.ids_before = resumed
            self.saved_step = self.at.step
            t.progress.advance(self.at.step, units=0)
        self._require_same_step(resumed is not None)
        if resumed is None and alternate.is_wanted(t.alternate, t.model):
            self.at.phase = 1
        self.log = MetricsLog(t.logs if distribution.rank() == 0 else None, self.at.log)
        if resumed is None:
            self._look(epoch=0)
        while self.at.epoch <= t.config.epochs and not self.at.is_finished:
            self._epoch()
        t.model.load_state_dict(self.best)
        t.model.eval()
        return TrainingResult(self.at.best_epoch, self._metrics_of(self.at.best_epoch), self.at.log)

    def close(self) -> None:
        """Let go of what outlives the training, however it ended."""
        self.t.progress.finish()
        self.log.close()
        alternate.freeze_tokens(self.t.model, False)

    def _require_same_step(self, is_resumed: bool) -> None:
        # Nobody deletes or replaces the state either before all have read it.
        steps = distribution.gather(self.at.step if is_resumed else None)
        if len(set(steps)) > 1:
            found = ", ".join(f"rank {rank}: {'none' if step is None else step}" for rank, step in enumerate(steps))
            raise TrainingError(
                f"{self.t.description}: the ranks found different steps to continue from ({found}); every rank must "
                f"see {self.t.resume.folder.parent} under the same path, on shared storage"
            )

    def _epoch(self) -> None:
        t, at = self.t, self.at
        t.model.train()
        alternate.freeze_tokens(t.model, at.phase == 1)
        if at.phase == 1 and not at.batch_in_epoch:
            self.ids_before = t.model.fusion.id_table.weight.detach().clone()
        self.last_log, self.windows_since_log = time.monotonic(), 0
        for batches in self._remaining_batches():
            self._step(batches)
            if at.batch_in_epoch < t.feed.num_steps and at.step % t.config.checkpoint_every_steps == 0:
                self._save()
        self._write_log_line()
        if not any("loss" in line for line in at.log):
            raise NothingToLearnError(
                f"{t.feed.label}: no window has an item of the vocabulary in a later instant than another event, so "
                f"there is nothing to predict"
            )
        self._look(epoch=at.epoch)
        self._end_epoch()
        self._save()

    def _remaining_batches(self) -> Iterator[tuple[SequenceBatch, ...]]:
        batches = self.t.feed.epoch(self.at.epoch, first_step=self.at.batch_in_epoch)
        while group := tuple(islice(batches, self.t.config.accumulate_batches)):
            yield group

    def _end_epoch(self) -> None:
        """Decide whether phase 1, or the training, is over."""
        t, at = self.t, self.at
        if at.phase == 1 and t.alternate is not None:
            ids_after = t.model.fusion.id_table.weight.detach()
            if alternate.has_converged(t.alternate, self.ids_before, ids_after, at.epochs_without_gain, at.epoch):
                self._write({"epoch": at.epoch, "step": at.step, "phase": 2})
                at.phase, at.epochs_without_gain = 2, 0
                self.ids_before = torch.empty(0)
        else:
            at.is_finished = at.epochs_without_gain >= t.config.patience
        at.epoch, at.batch_in_epoch = at.epoch + 1, 0

    def _step(self, batches: tuple[SequenceBatch, ...]) -> None:
        """One update from the gradients of one batch, or of several."""
        t, at = self.t, self.at
        self.optimizer.zero_grad()
        loss_sum = weight = 0.0
        windows = 0
        for batch in batches:
            batch_sum, batch_weight, batch_windows = self._backward(batch)
            loss_sum, weight, windows = loss_sum + batch_sum, weight + batch_weight, windows + batch_windows
            at.batch_in_epoch += 1
        self.windows_since_log += windows
        figures = {}
        if weight:
            distribution.add_up_gradients(t.model)
            self._update(batches, weight)
            at.loss_sum, at.loss_count = at.loss_sum + loss_sum / weight, at.loss_count + 1
            figures = {"loss": loss_sum / weight}
        t.progress.advance(1, units=windows, **figures)
        at.step += 1
        if at.step % _LOG_EVERY_STEPS == 0:
            self._write_log_line()

    def _update(self, batches: tuple[SequenceBatch, ...], weight: float) -> None:
        t, at = self.t, self.at
        try:
            self.optimizer.step(learning_rate_at(at.step, self.total_steps, t.config.optimizer), divide_by=weight)
        except TrainingError as error:
            first, last = at.batch_in_epoch - len(batches) + 1, at.batch_in_epoch
            place = f"epoch {at.epoch}, batch {first if first == last else f'{first} to {last}'} (step {at.step + 1})"
            names = str(self._names(batches))
            raise TrainingError(
                f"{t.description}: {error}; at {place}, windows {names}; {self._last_good()}", private=names
            ) from error

    def _backward(self, batch: SequenceBatch) -> tuple[float, float, int]:
        """Add the gradients of one batch; returns its summed loss, weight and windows, those of all ranks together."""
        loss = self._loss(batch)
        own_sum = 0.0 if loss is None else loss.mean.item() * loss.weight
        own_weight = 0.0 if loss is None else float(loss.weight)
        loss_sum, weight, windows = distribution.add_up(own_sum, own_weight, float(batch.num_windows))
        if not math.isfinite(loss_sum):
            place = f"epoch {self.at.epoch}, batch {self.at.batch_in_epoch + 1} (step {self.at.step + 1})"
            guilty = self._guilty(batch) if not math.isfinite(own_sum) else []
            is_together = any(distribution.gather(bool(guilty) and guilty[0] is batch))
            names = f"{self._names(guilty)}" + (" together" if is_together else "")
            raise TrainingError(
                f"{self.t.description}: loss is not finite at {place}, windows {names}; {self._last_good()}",
                private=names,
            )
        if loss is not None:
            (loss.mean * loss.weight).backward()
        return loss_sum, weight, round(windows)

    def _loss(self, batch: SequenceBatch) -> BatchLoss | None:
        # Randomness depends on seed and place alone, so that a resumed run draws what it would have drawn. Ranks share
        # the draws of candidates, and have dropout of their own.
        place = (self.t.seed, self.at.epoch, self.at.batch_in_epoch)
        # The generator of the CPU alone: torch.manual_seed asks every other kind of device too.
        torch.default_generator.manual_seed(hash((*place, distribution.rank())) % 2**63)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.t.config.precision == "bf16"):
            return self.t.loss(batch, torch.Generator().manual_seed(hash(place) % 2**63))

    def _look(self, epoch: int) -> None:
        """Validate, and keep the weights if they are the best so far."""
        at = self.at
        metrics = distribution.from_first_rank(self.t.validate())
        self._write({"epoch": epoch, "step": at.step, **metrics})
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
        seconds = time.monotonic() - self.last_log
        line = {
            "epoch": at.epoch,
            "step": at.step,
            "loss": at.loss_sum / at.loss_count,
            "learning_rate": self.optimizer.learning_rate,
            "sequences_per_second": round(self.windows_since_log / max(seconds, 1e-9), 1),
        }
        load = t.model.fusion.expert_load()
        self._write(line | ({"expert_load": load} if load else {}))
        at.loss_sum, at.loss_count = 0.0, 0
        self.last_log, self.windows_since_log = time.monotonic(), 0

    def _write(self, line: dict[str, Any]) -> None:
        self.at.log.append(line)
        self.log.write(line)

    def _save(self) -> None:
        if distribution.rank() == 0:
            self.t.resume.save(self.at, self.t.model, self.best, self.ids_before, self.optimizer)
        self.saved_step = self.at.step

    @torch.no_grad()
    def _guilty(self, batch: SequenceBatch) -> list[SequenceBatch]:
        """The windows whose loss is not finite by itself; the whole batch where each one's is."""
        with distribution.alone():
            return [row for row in map(batch.row, range(len(batch))) if not self._is_finite(row)] or [batch]

    def _names(self, batches: Iterable[SequenceBatch]) -> list[str]:
        """Ids of the windows of all ranks, the first few."""
        own = window_ids(self.t.feed, islice(batches, _NAMED_IN_ERROR))
        return [name for names in distribution.gather(own[:_NAMED_IN_ERROR]) for name in names][:_NAMED_IN_ERROR]

    def _is_finite(self, batch: SequenceBatch) -> bool:
        loss = self._loss(batch)
        return loss is None or math.isfinite(loss.mean.item())

    def _last_good(self) -> str:
        return (
            f"the last good state (step {self.saved_step}) and the published checkpoint are kept; "
            f"lower optimizer.learning_rate"
        )

    def _metrics_of(self, epoch: int) -> dict[str, float]:
        lines = [line for line in self.at.log if line["epoch"] == epoch and NDCG in line]
        return {name: value for name, value in lines[-1].items() if name.startswith("validation_")}
