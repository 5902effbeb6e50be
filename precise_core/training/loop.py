"""The training loop of both stages and of every model; they differ in the loss they pass to it."""

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
from precise_core.training.device import computing_on, seed_draws, uses_bf16
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
_OUT_OF_TIME = "stopped_after_minutes"  # of a line of the log
_NAMED_IN_ERROR = 10


@dataclass(frozen=True, kw_only=True)
class Training:
    """Everything one training needs.

    Attributes:
        model: Trained in place, on the device where it is; holds the best epoch's weights at the end.
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
    """``best_epoch`` 0 = the weights the training started from. ``notes``: what a person should know, for the log."""

    best_epoch: int
    metrics: dict[str, float]
    log: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


def run_training(training: Training) -> TrainingResult:
    """Train until the epochs or ``max_minutes`` are used up, or validation has not improved for ``patience`` epochs.

    A TrainingError names the batch and the windows whose loss or gradient is not finite; NothingToLearnError: no batch
    of an epoch has a loss.
    """
    keep_freed_memory()
    run = _Run(training)
    with computing_on(training.model.device):
        try:
            return run.run()
        finally:
            run.close()


class _Run:
    """The state of ``run_training``."""

    def __init__(self, training: Training) -> None:
        self.training, self.model, self.config = training, training.model, training.config
        self.device, self.is_bf16 = self.model.device, uses_bf16(self.config.precision, self.model.device)
        self.at = Counters()  # where the training is
        self.total_steps = self.config.epochs * -(-training.feed.num_steps // self.config.accumulate_batches)
        self.optimizer = Optimizer(self.model, self.config.optimizer)
        self.best: dict[str, torch.Tensor] = {}  # on the CPU, as the ids are
        self.ids_before = torch.empty(0)
        self.last_log, self.windows_since_log = time.monotonic(), 0
        self.log = MetricsLog(None)
        self.saved_step = 0
        self.clock = time.monotonic()  # read into `at.seconds`

    def run(self) -> TrainingResult:
        self.training.progress.start(self.total_steps, self.training.description)
        resumed = self.training.resume.load(self.model, self.optimizer)
        if resumed is not None:
            self.at, self.best, self.ids_before = resumed
            self.saved_step = self.at.step
            self.training.progress.advance(self.at.step, units=0)
        self._require_same_step(resumed is not None)
        if resumed is None and alternate.is_enabled(self.training.alternate, self.model):
            self.at.phase = 1
        self.log = MetricsLog(self.training.logs if distribution.rank() == 0 else None, self.at.log)
        if resumed is None:
            self._look(epoch=0)
        while self.at.epoch <= self.config.epochs and not self.at.is_finished:
            self._epoch()
        self.model.load_state_dict(self.best)
        self.model.eval()
        return TrainingResult(self.at.best_epoch, self._metrics_of(self.at.best_epoch), self.at.log, self._notes())

    def close(self) -> None:
        """Release what outlives the training, however it ended."""
        self.training.progress.finish()
        self.log.close()
        alternate.freeze_tokens(self.model, False)

    def _require_same_step(self, is_resumed: bool) -> None:
        # The exchange also keeps a rank from replacing the state before all have read it.
        steps = distribution.gather(self.at.step if is_resumed else None)
        if len(set(steps)) > 1:
            found = ", ".join(f"rank {rank}: {'none' if step is None else step}" for rank, step in enumerate(steps))
            raise TrainingError(
                f"{self.training.description}: the ranks found different steps to continue from ({found}); every rank "
                f"must see {self.training.resume.folder.parent} under the same path, on shared storage"
            )

    def _epoch(self) -> None:
        self.model.train()
        alternate.freeze_tokens(self.model, self.at.phase == 1)
        if self.at.phase == 1 and not self.at.batch_in_epoch:
            self.ids_before = self._ids()
        self.last_log, self.windows_since_log = time.monotonic(), 0
        for batches in self._remaining_batches():
            self._step(batches)
            is_end = self.at.batch_in_epoch >= self.training.feed.num_steps
            if not is_end and self.at.step % self.config.checkpoint_every_steps == 0:
                self._save()
        self._write_log_line()
        if not any("loss" in line for line in self.at.log):
            raise NothingToLearnError(
                f"{self.training.feed.label}: no window has an item of the vocabulary in a later instant than another "
                f"event, so there is nothing to predict"
            )
        self._look(epoch=self.at.epoch)
        self._end_epoch()
        self._save()

    def _remaining_batches(self) -> Iterator[tuple[SequenceBatch, ...]]:
        is_pinned = self.device.type == "cuda"
        batches = self.training.feed.epoch(self.at.epoch, first_step=self.at.batch_in_epoch, pinned=is_pinned)
        while group := tuple(islice(batches, self.config.accumulate_batches)):
            yield group

    def _ids(self) -> torch.Tensor:
        """A copy of the id table."""
        return _copied(self.model.fusion.id_table.weight)

    def _end_epoch(self) -> None:
        """Decide whether phase 1, or the training, is over."""
        if self.at.phase == 1 and self.training.alternate is not None:
            if alternate.has_converged(
                self.training.alternate, self.ids_before, self._ids(), self.at.epochs_without_gain, self.at.epoch
            ):
                self._write({"epoch": self.at.epoch, "step": self.at.step, "phase": 2})
                self.at.phase, self.at.epochs_without_gain = 2, 0
                self.ids_before = torch.empty(0)
        else:
            self.at.is_finished = self.at.epochs_without_gain >= self.config.patience
        if not self.at.is_finished and self.at.epoch < self.config.epochs and self._is_out_of_time():
            self._write({"epoch": self.at.epoch, "step": self.at.step, _OUT_OF_TIME: self.config.max_minutes})
            self.at.is_finished = True
        self.at.epoch, self.at.batch_in_epoch = self.at.epoch + 1, 0

    def _is_out_of_time(self) -> bool:
        """By the clock of rank 0, so that all ranks stop at the same epoch."""
        if self.config.max_minutes is None:
            return False
        self._read_clock()
        return distribution.from_first_rank(self.at.seconds >= self.config.max_minutes * 60)

    def _read_clock(self) -> None:
        now = time.monotonic()
        self.at.seconds, self.clock = self.at.seconds + now - self.clock, now

    def _notes(self) -> tuple[str, ...]:
        epochs = [line["epoch"] for line in self.at.log if _OUT_OF_TIME in line]
        limit = self.config.max_minutes
        stopped = (f"stopped after epoch {n} of {self.config.epochs}: max_minutes {limit:g} is used up" for n in epochs)
        if self.device.type == "cpu":
            return tuple(stopped)
        return (*stopped, f"trained on {self.device}, {'bf16' if self.is_bf16 else 'fp32'}")

    def _step(self, batches: tuple[SequenceBatch, ...]) -> None:
        """One update from the gradients of one batch, or of several."""
        self.optimizer.zero_grad()
        loss_sum = weight = 0.0
        windows = 0
        for batch in batches:
            batch_sum, batch_weight, batch_windows = self._backward(batch)
            loss_sum, weight, windows = loss_sum + batch_sum, weight + batch_weight, windows + batch_windows
            self.at.batch_in_epoch += 1
        self.windows_since_log += windows
        figures = {}
        if weight:
            distribution.add_up_gradients(self.model)
            self._update(batches, weight)
            self.at.loss_sum, self.at.loss_count = self.at.loss_sum + loss_sum / weight, self.at.loss_count + 1
            figures = {"loss": loss_sum / weight}
        self.training.progress.advance(1, units=windows, **figures)
        self.at.step += 1
        if self.at.step % _LOG_EVERY_STEPS == 0:
            self._write_log_line()

    def _update(self, batches: tuple[SequenceBatch, ...], weight: float) -> None:
        try:
            rate = learning_rate_at(self.at.step, self.total_steps, self.config.optimizer)
            self.optimizer.step(rate, divide_by=weight)
        except TrainingError as error:
            first, last = self.at.batch_in_epoch - len(batches) + 1, self.at.batch_in_epoch
            place = self._place(f"{first}" if first == last else f"{first} to {last}")
            names = str(self._names(batches))
            raise TrainingError(
                f"{self.training.description}: {error}; at {place}, windows {names}; {self._last_good()}", private=names
            ) from error

    def _backward(self, batch: SequenceBatch) -> tuple[float, float, int]:
        """Add the gradients of one batch; returns its summed loss, weight and windows, those of all ranks together."""
        loss = self._loss(batch)
        own_sum = 0.0 if loss is None else loss.mean.item() * loss.weight
        own_weight = 0.0 if loss is None else float(loss.weight)
        loss_sum, weight, windows = distribution.add_up(own_sum, own_weight, float(batch.num_windows))
        if not math.isfinite(loss_sum):
            place = self._place(f"{self.at.batch_in_epoch + 1}")
            guilty = self._guilty(batch) if not math.isfinite(own_sum) else []
            is_together = any(distribution.gather(bool(guilty) and guilty[0] is batch))
            names = f"{self._names(guilty)}" + (" together" if is_together else "")
            raise TrainingError(
                f"{self.training.description}: loss is not finite at {place}, windows {names}; {self._last_good()}",
                private=names,
            )
        if loss is not None:
            (loss.mean * loss.weight).backward()
        return loss_sum, weight, round(windows)

    def _loss(self, batch: SequenceBatch) -> BatchLoss | None:
        # Randomness depends on seed and place alone, so that a resumed run draws what it would have drawn. Ranks share
        # the draws of candidates, and have dropout of their own.
        place = (self.training.seed, self.at.epoch, self.at.batch_in_epoch)
        seed_draws(self.device, hash((*place, distribution.rank())) % 2**63)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.is_bf16):
            return self.training.loss(batch.on(self.device), torch.Generator().manual_seed(hash(place) % 2**63))

    def _look(self, epoch: int) -> None:
        """Validate, and keep the weights if they are the best so far."""
        metrics = distribution.from_first_rank(self.training.validate())
        self._write({"epoch": epoch, "step": self.at.step, **metrics})
        if metrics[NDCG] > self.at.best_metric:
            self.at.best_metric, self.at.best_epoch, self.at.epochs_without_gain = metrics[NDCG], epoch, 0
            self.best = {name: _copied(tensor) for name, tensor in self.model.state_dict().items()}
        else:
            self.at.epochs_without_gain += 1
        self.training.progress.advance(0, units=0, **metrics)

    def _write_log_line(self) -> None:
        if not self.at.loss_count:
            return
        seconds = time.monotonic() - self.last_log
        line = {
            "epoch": self.at.epoch,
            "step": self.at.step,
            "loss": self.at.loss_sum / self.at.loss_count,
            "learning_rate": self.optimizer.learning_rate,
            "sequences_per_second": round(self.windows_since_log / max(seconds, 1e-9), 1),
        }
        load = self.model.fusion.expert_load()
        self._write(line | ({"expert_load": load} if load else {}))
        self.at.loss_sum, self.at.loss_count = 0.0, 0
        self.last_log, self.windows_since_log = time.monotonic(), 0

    def _write(self, line: dict[str, Any]) -> None:
        self.at.log.append(line)
        self.log.write(line)

    def _save(self) -> None:
        self._read_clock()
        if distribution.rank() == 0:
            self.training.resume.save(self.at, self.model, self.best, self.ids_before, self.optimizer)
        self.saved_step = self.at.step

    @torch.no_grad()
    def _guilty(self, batch: SequenceBatch) -> list[SequenceBatch]:
        """The windows whose own loss is not finite; the whole batch where each one's is finite."""
        with distribution.alone():
            return [row for row in map(batch.row, range(len(batch))) if not self._is_finite(row)] or [batch]

    def _names(self, batches: Iterable[SequenceBatch]) -> list[str]:
        """Ids of the windows of all ranks, the first few."""
        own = window_ids(self.training.feed, islice(batches, _NAMED_IN_ERROR))
        return [name for names in distribution.gather(own[:_NAMED_IN_ERROR]) for name in names][:_NAMED_IN_ERROR]

    def _is_finite(self, batch: SequenceBatch) -> bool:
        loss = self._loss(batch)
        return loss is None or math.isfinite(loss.mean.item())

    def _place(self, batches: str) -> str:
        return f"epoch {self.at.epoch}, batch {batches} (step {self.at.step + 1})"

    def _last_good(self) -> str:
        return (
            f"the last good state (step {self.saved_step}) and the published checkpoint are kept; "
            f"lower optimizer.learning_rate"
        )

    def _metrics_of(self, epoch: int) -> dict[str, float]:
        lines = [line for line in self.at.log if line["epoch"] == epoch and NDCG in line]
        return {name: value for name, value in lines[-1].items() if name.startswith("validation_")}


def _copied(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU: the memory of a GPU is for the training."""
    return tensor.detach().to("cpu", copy=True)
