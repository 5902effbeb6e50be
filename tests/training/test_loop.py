"""The training system: accumulation, precision, sparse tables, alternate training, figures, progress, bad input."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from precise_core.models.config import ModelConfig
from precise_core.run import progress as runtime_progress
from precise_core.training.checkpoint import Checkpoint, latest
from precise_core.training.config import OptimizerConfig
from precise_core.training.optimizer import Optimizer
from precise_core.training.validation import NDCG
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.reader import DeltaSnapshot
from tests.torch_world import (
    LENGTH,
    StopAt,
    tiny_model,
    universal_training,
    world_snapshot,
    write_windows,
)

STEPS = 10  # of an epoch of 300 windows in batches of 32
STUCK = {"learning_rate": 1e-12}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> DeltaSnapshot:
    return world_snapshot(tmp_path_factory.mktemp("world") / "training_windows")


def run(
    windows: DeltaSnapshot,
    out: Path,
    model: ModelConfig | None = None,
    stop_at: int | None = None,
    rows: int = 20,
    progress: Progress | None = None,
    **changes: Any,
) -> Checkpoint:
    return universal_training(windows, out, model, rows, StopAt(stop_at) if stop_at else progress, **changes)


def run_with_a_kill(windows: DeltaSnapshot, out: Path, stop_at: int, **changes: Any) -> Checkpoint:
    with pytest.raises(KeyboardInterrupt):
        run(windows, out, stop_at=stop_at, **changes)
    return run(windows, out, **changes)


def without_dropout(mode: str = "moe") -> ModelConfig:
    encoder = {"layers": 1, "heads": 2, "ffn_width": 16, "dropout": 0.0, "max_length": LENGTH}
    return tiny_model(encoder=encoder, fusion=tiny_model(mode).fusion.model_copy(update={"id_dropout": 0.0}))


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return checkpoint.load_model().state_dict()


def lines(checkpoint: Checkpoint, key: str) -> list[dict[str, Any]]:
    return [line for line in checkpoint.metrics_log() if key in line]


def figures(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The log without its clock readings."""
    return [{k: v for k, v in line.items() if k != "sequences_per_second"} for line in checkpoint.metrics_log()]


# Accumulation


def test_two_accumulated_batches_are_one_of_twice_the_size(tmp_path: Path) -> None:
    small = world_snapshot(tmp_path / "training_windows", train=32)  # an epoch is one update, either way
    model = without_dropout().model_copy(
        update={"fusion": without_dropout().fusion.model_copy(update={"balance_weight": 0.0})}
    )
    changes = {"negatives": {"whole_catalog": True}, "epochs": 3}
    halves = run(small, tmp_path / "halves", model, batch_size=16, accumulate_batches=2, **changes)
    whole = run(small, tmp_path / "whole", model, batch_size=32, **changes)
    assert [line["step"] for line in lines(halves, "loss")] == [1, 2, 3]
    losses = [[line["loss"] for line in lines(checkpoint, "loss")] for checkpoint in (halves, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert halves.manifest.best_epoch == whole.manifest.best_epoch > 0
    expected = weights(whole)
    for name, value in weights(halves).items():
        if name.endswith("key_value.bias"):  # a key's bias has no gradient but rounding, which Adam makes a step of
            value, expected[name] = value[len(value) // 2 :], expected[name][len(value) // 2 :]
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5, msg=name)


def test_a_group_of_batches_is_one_step_and_the_last_group_may_be_smaller(
    windows: DeltaSnapshot, tmp_path: Path
) -> None:
    checkpoint = run(windows, tmp_path, accumulate_batches=4, epochs=2)
    assert [line["step"] for line in lines(checkpoint, NDCG)] == [0, 3, 6]  # 10 batches: 4 + 4 + 2


@pytest.mark.parametrize("killed_at", [5, 7])
def test_a_killed_training_that_accumulates_continues_exactly(
    windows: DeltaSnapshot, tmp_path: Path, killed_at: int
) -> None:
    changes = {"accumulate_batches": 3, "checkpoint_every_steps": 1}
    whole = run(windows, tmp_path / "whole", **changes)
    resumed = run_with_a_kill(windows, tmp_path / "killed", killed_at, **changes)
    assert resumed.model_version == whole.model_version and figures(resumed) == figures(whole)


def test_a_run_may_be_continued_with_other_ways_to_watch_and_keep_it(windows: DeltaSnapshot, tmp_path: Path) -> None:
    advanced: list[int] = []

    class Recorder(NullProgress):
        def advance(self, n: int, **info: float) -> None:  # noqa: ARG002
            advanced.append(n)

    with pytest.raises(KeyboardInterrupt):
        run(windows, tmp_path, stop_at=6)
    changes = {"checkpoint_every_steps": 100, "tensorboard": False, "rank_timeout_seconds": 9}
    run(windows, tmp_path, progress=Recorder(), **changes)
    assert advanced[:2] == [4, 1]  # the four saved steps at once


# A budget of time


def test_a_training_whose_minutes_are_used_up_ends_with_its_epoch(windows: DeltaSnapshot, tmp_path: Path) -> None:
    checkpoint = run(windows, tmp_path, epochs=9, max_minutes=1e-9)
    assert [line["epoch"] for line in lines(checkpoint, NDCG)] == [0, 1] and checkpoint.manifest.best_epoch == 1
    assert checkpoint.manifest.notes == ("stopped after epoch 1 of 9: max_minutes 1e-09 is used up",)
    assert [line["epoch"] for line in lines(checkpoint, "stopped_after_minutes")] == [1]


def test_minutes_that_are_not_used_up_change_nothing(windows: DeltaSnapshot, tmp_path: Path) -> None:
    limited = run(windows, tmp_path / "limited", max_minutes=1e9)
    assert figures(limited) == figures(run(windows, tmp_path / "unlimited")) and not limited.manifest.notes
    last = run(windows, tmp_path / "last", epochs=1, max_minutes=1e-9)  # there was no further epoch to leave out
    assert not last.manifest.notes


def test_minutes_from_before_a_kill_count(windows: DeltaSnapshot, tmp_path: Path) -> None:
    """Killed in the first epoch after minutes of work, a training is over with that epoch; and it stays over."""
    changes = {"epochs": 9, "max_minutes": 1e6}
    with pytest.raises(KeyboardInterrupt):
        run(windows, tmp_path, stop_at=6, **changes)
    (state,) = (tmp_path / ".resume-all").glob("*/state.json")
    told = json.loads(state.read_text())
    assert told["seconds"] > 0
    state.write_text(json.dumps(told | {"seconds": 60 * 1e6}))
    checkpoint = run(windows, tmp_path, **changes)
    assert [line["epoch"] for line in lines(checkpoint, NDCG)] == [0, 1] and len(checkpoint.manifest.notes) == 1


# What is told


class Told(NullProgress):
    """Remembers what it is told; every step takes a second."""

    def __init__(self) -> None:
        self.total = self.steps = self.windows = 0

    def start(self, total_steps: int, description: str) -> None:  # noqa: ARG002
        self.total = total_steps

    def advance(self, n: int, **info: float) -> None:
        self.steps, self.windows = self.steps + n, self.windows + int(info["units"])


def test_the_rate_counts_the_windows_there_are(
    windows: DeltaSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    monkeypatch.setattr(time, "monotonic", lambda: float(told.steps))
    checkpoint = run(windows, tmp_path, progress=told, accumulate_batches=4, epochs=2)
    assert [line["sequences_per_second"] for line in lines(checkpoint, "loss")] == [100, 100]  # 300 windows, 3 steps
    assert told.windows == 600


def test_steps_with_nothing_to_learn_are_steps_that_are_done(tmp_path: Path) -> None:
    folder = tmp_path / "training_windows"
    world_snapshot(folder, train=32)
    write_windows(folder, [([2, 3], [7, 7], [])] * 32)  # shorter than the others: batches of their own
    told = Told()
    checkpoint = run(DeltaSnapshot(folder), tmp_path, progress=told, batch_size=8, epochs=2)
    assert told.steps == told.total == 16 and told.windows == 128
    assert checkpoint.manifest.best_epoch > 0


# Precision


def test_bf16_trains_and_stays_near_fp32(windows: DeltaSnapshot, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        checkpoint = run(windows, tmp_path / precision, without_dropout(), precision=precision, epochs=4)
        losses[precision] = [line["loss"] for line in lines(checkpoint, "loss")]
        assert losses[precision][-1] < losses[precision][0] - 0.3
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]


def test_auto_is_fp32_on_a_cpu(windows: DeltaSnapshot, tmp_path: Path) -> None:
    auto, fp32 = (run(windows, tmp_path / name, precision=name, epochs=1) for name in ("auto", "fp32"))
    assert auto.model_version == fp32.model_version


# Sparse tables


def test_a_sparse_step_touches_the_rows_of_the_batch_only() -> None:
    moved = {}
    for above in (0, 100):
        torch.manual_seed(0)
        table = torch.nn.Embedding(20, 4)
        model = torch.nn.Sequential(table, torch.nn.Linear(4, 3))
        optimizer = Optimizer(model, OptimizerConfig(sparse_above_rows=above))
        for rows in ([1, 2, 2], [3]):
            before = table.weight.detach().clone()
            optimizer.zero_grad()
            model(torch.tensor(rows)).sum().backward()
            optimizer.step(0.1)
        moved[above] = (table.weight != before).any(dim=1).nonzero()[:, 0].tolist()
    assert moved[0] == [3]
    assert moved[100] == list(range(20))  # moments move rows 1 and 2 on, and weight decay moves all


def test_a_gradient_is_clipped_the_same_sparse_and_dense() -> None:
    steps = []
    for above in (0, 100):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Embedding(20, 4), torch.nn.Linear(4, 3))
        optimizer = Optimizer(model, OptimizerConfig(sparse_above_rows=above, clip_norm=0.5))
        (model(torch.tensor([1, 2, 2])) * 100).sum().backward()
        optimizer.step(0.1, divide_by=7)
        grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        steps.append(torch.cat([grad.to_dense().flatten() for grad in grads]))
    torch.testing.assert_close(steps[0], steps[1])
    assert float(steps[0].norm()) == pytest.approx(0.5, rel=1e-5)


def test_sparse_tables_train_and_resume_exactly(windows: DeltaSnapshot, tmp_path: Path) -> None:
    changes = {"optimizer": {"learning_rate": 0.01, "warmup_steps": 2, "sparse_above_rows": 0}, "epochs": 4}
    whole = run(windows, tmp_path / "whole", rows=30, **changes)
    validated = [line[NDCG] for line in lines(whole, NDCG)]
    assert max(validated) > validated[0] + 0.1
    resumed = run_with_a_kill(windows, tmp_path / "killed", 14, rows=30, **changes)
    assert resumed.model_version == whole.model_version
    untrained = latest(whole.folder.parent, "untrained")
    ids, start = (weights(checkpoint)["fusion.id_table.weight"] for checkpoint in (whole, untrained))
    assert torch.equal(ids[22:], start[22:])  # ten items without an event
    assert (ids[2:22] != start[2:22]).any(dim=1).all()


# Alternate training


def alternate(**changes: Any) -> dict[str, Any]:
    return {"enabled": True, "patience": 9, "max_epochs": 9, **changes}


def test_the_first_phase_trains_ids_and_leaves_the_token_table(windows: DeltaSnapshot, tmp_path: Path) -> None:
    checkpoint = run(windows, tmp_path, alternate=alternate(), epochs=2)
    assert checkpoint.manifest.best_epoch > 0 and not lines(checkpoint, "phase")
    before, after = weights(latest(tmp_path, "untrained")), weights(checkpoint)
    assert torch.equal(after["fusion.token_table.weight"], before["fusion.token_table.weight"])
    assert (after["fusion.id_table.weight"] != before["fusion.id_table.weight"])[1:].any(dim=1).all()


@pytest.mark.parametrize(
    ("criterion", "optimizer", "last_epoch"),
    [
        ({"patience": 2}, STUCK, 2),
        ({"min_update": 1e9}, {}, 1),
        ({"max_epochs": 3}, {}, 3),
    ],
)
def test_each_criterion_ends_the_first_phase(
    windows: DeltaSnapshot, tmp_path: Path, criterion: dict[str, Any], optimizer: dict[str, Any], last_epoch: int
) -> None:
    optimizer = {"learning_rate": 0.01, "warmup_steps": 2} | optimizer
    checkpoint = run(windows, tmp_path, alternate=alternate(**criterion), optimizer=optimizer, epochs=4, patience=9)
    assert lines(checkpoint, "phase") == [{"epoch": last_epoch, "step": last_epoch * STEPS, "phase": 2}]
    if not criterion.get("patience"):
        assert checkpoint.manifest.best_epoch > last_epoch
        before, after = weights(latest(tmp_path, "untrained")), weights(checkpoint)
        assert not torch.equal(after["fusion.token_table.weight"], before["fusion.token_table.weight"])


def test_early_stopping_counts_in_the_second_phase_only(windows: DeltaSnapshot, tmp_path: Path) -> None:
    stuck = {"optimizer": STUCK, "epochs": 9, "patience": 2}
    checkpoint = run(windows, tmp_path, alternate=alternate(patience=3), **stuck)
    assert [line["epoch"] for line in lines(checkpoint, "phase")] == [3]
    assert [line["epoch"] for line in lines(checkpoint, NDCG)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("killed_at", [6, 10, 11, 15])  # in phase 1 (two), just after the switch, later in phase 2
def test_alternate_training_continues_exactly(windows: DeltaSnapshot, tmp_path: Path, killed_at: int) -> None:
    changes = {"alternate": alternate(max_epochs=1), "epochs": 2}
    whole = run(windows, tmp_path / "whole", **changes)
    resumed = run_with_a_kill(windows, tmp_path / "killed", killed_at, **changes)
    assert resumed.model_version == whole.model_version
    assert figures(resumed) == figures(whole) and len(lines(resumed, "phase")) == 1


@pytest.mark.parametrize("mode", ["id", "llm"])
def test_with_one_half_alternate_training_is_a_plain_one(windows: DeltaSnapshot, tmp_path: Path, mode: str) -> None:
    fusion = tiny_model(mode).fusion
    plain = run(windows, tmp_path / "plain", tiny_model(fusion=fusion))
    same = run(windows, tmp_path / "same", tiny_model(fusion=fusion), alternate=alternate(max_epochs=1))
    assert same.model_version == plain.model_version and not lines(same, "phase")


# Figures to watch


def test_the_watched_files_hold_the_log_of_the_checkpoint(windows: DeltaSnapshot, tmp_path: Path) -> None:
    run(windows, tmp_path, epochs=1, batch_size=8)  # an older training in the same folder
    changes = {"epochs": 2, "batch_size": 8, "checkpoint_every_steps": 30}
    checkpoint = run_with_a_kill(windows, tmp_path, 58, **changes)  # two lines after the last saved step
    logs = tmp_path / "logs" / "all"
    written = [json.loads(line) for line in (logs / "metrics.jsonl").read_text().splitlines()]
    assert written == checkpoint.metrics_log()
    steps = [line["step"] for line in written if "loss" in line]
    assert steps == sorted(set(steps)) and len(steps) == 5
    shown = EventAccumulator(str(logs)).Reload()
    for name in ("loss", "learning_rate", NDCG):
        expected = [(line["step"], pytest.approx(line[name], rel=1e-5)) for line in written if name in line]
        assert [(event.step, event.value) for event in shown.Scalars(name)] == expected
    load = [line["expert_load"][1] for line in written if "expert_load" in line]
    assert [event.value for event in shown.Scalars("expert_load/1")] == pytest.approx(load, rel=1e-5)


def test_nothing_is_written_where_nobody_watches(windows: DeltaSnapshot, tmp_path: Path) -> None:
    run(windows, tmp_path, epochs=1, tensorboard=False)
    assert not (tmp_path / "logs").exists()


def test_progress_in_a_log_file_says_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    file, now = io.StringIO(), [1000.0]
    monkeypatch.setattr(runtime_progress, "console", Console(file=file, width=200, highlight=False))
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = runtime_progress.StepProgress("windows")
    progress.start(1000, "universal all")
    progress.advance(100, units=0)  # done before a restart: they say nothing about the speed
    for _ in range(100):
        now[0] += 0.5
        progress.advance(1, units=32, loss=1.25)
    progress.finish()
    shown = file.getvalue().splitlines()
    assert len(shown) == 5  # one every ten seconds
    assert shown[0].strip() == "universal all: 120/1000 64 windows/s · loss 1.25 · 0:07:20 left"
    assert shown[-1].strip() == "universal all: 200/1000 64 windows/s · loss 1.25 · 0:06:40 left"
    progress.start(3, "click")  # over before its first line
    now[0] += 2
    progress.advance(3, units=96)
    progress.finish()
    assert file.getvalue().splitlines()[-1].strip() == "click: 3/3 48 windows/s · 0:00:02 in all"
