"""Write the figures of the last demo night down: `python -m benchmarks.demo_night --config conf/demo.yaml`.

Reads the warehouse that `make demo` left; nothing is trained or measured again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from benchmarks.record import record
from precise_core.config import load_config
from precise_core.config.tasks import ALL_TASK
from precise_core.evaluation.names import RECOMMENDATIONS
from precise_core.evaluation.protocol import USER_FILTERS
from precise_core.intake.chosen_sizes import sized
from precise_core.operations.rollback import NIGHT
from precise_core.settings import Settings
from precise_core.warehouse.tables import Warehouse
from schemas import EVALUATION_METRICS, RUNS, Table
from schemas import columns as c

RESULTS = Path(__file__).parent / "results" / "demo_night.jsonl"
COMMAND = "make demo && python -m benchmarks.demo_night --config conf/demo.yaml"
# `make demo` has 25 minutes on two cores, of which installation takes about 4.
_NIGHT_SECONDS = 21 * 60
# Of the published lists of the task `all`, by what counts.
_LISTS = {"all": 0.310, "new": 0.055, "repeat": 0.508}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="conf/demo.yaml")
    parser.add_argument("--quality-only", action="store_true", help="no seconds: other work ran beside the night")
    arguments = parser.parse_args(argv)
    settings = sized(load_config(arguments.config, Settings))
    data = f"{settings.name} ({settings.source.kind})"
    metrics = _read(settings, EVALUATION_METRICS)
    _lists(metrics, settings, data)
    best = _ndcg(metrics, "retrieval", "all", "all")
    popular = best[settings.evaluation.fallback_reference]
    for task in settings.task_names:
        for user_filter in USER_FILTERS:
            for system, value in _ndcg(metrics, "retrieval", task, user_filter).items():
                goal = None
                if (task, user_filter, system) == ("all", "all", "PRECISE-UT"):
                    goal = f"above most popular ({popular:.4f})"
                meets = None if goal is None else bool(value > popular)
                _record(f"NDCG@50 {user_filter}, {task}: {system}", value, "share", goal, meets, data, settings.seed)
    for row in metrics[metrics["question"] == "ranking"].sort_values(["metric", "system"]).to_dict("records"):
        _record(f"{row['metric']}: {row['system']}", row["value"], "", None, None, data, settings.seed)
    if not arguments.quality_only:
        _seconds(settings, data)


def _lists(metrics: pd.DataFrame, settings: Settings, data: str) -> None:
    for task in settings.task_names:
        for user_filter in USER_FILTERS:
            value = _ndcg(metrics, RECOMMENDATIONS, task, user_filter).get(RECOMMENDATIONS)
            if value is not None:
                least = _LISTS[user_filter] if task == ALL_TASK else None
                goal, meets = (None, None) if least is None else (f"at least {least}", value >= least)
                name = f"NDCG@50 {user_filter}, {task}: published lists"
                _record(name, value, "share", goal, meets, data, settings.seed)


def _seconds(settings: Settings, data: str) -> None:
    runs = _read(settings, RUNS)
    last = runs[runs["status"] == "succeeded"].sort_values("started_at").groupby(c.JOB).tail(1)
    for row in last.sort_values("started_at").to_dict("records"):
        _record(f"{row['job']}", row["seconds"], "s", None, None, data, settings.seed)
    total = float(last.loc[last[c.JOB] != NIGHT, "seconds"].sum())  # a whole night has a row of its own
    goal = f"at most {_NIGHT_SECONDS} s on two cores"
    _record("all jobs of the night", total, "s", goal, total <= _NIGHT_SECONDS, data, settings.seed)


def _ndcg(metrics: pd.DataFrame, question: str, task: str, user_filter: str) -> dict[str, float]:
    """NDCG@50 by system, best first."""
    chosen = metrics[
        (metrics["question"] == question)
        & (metrics[c.TASK] == task)
        & (metrics["user_filter"] == user_filter)
        & (metrics["item_group"] == "all")
        & (metrics["metric"] == "ndcg")
        & (metrics["k"] == 50)
    ]
    return dict(chosen.sort_values("value", ascending=False)[["system", "value"]].to_numpy().tolist())


def _read(settings: Settings, table: Table) -> pd.DataFrame:
    warehouse = Warehouse(settings.warehouse)
    return warehouse.read_arrow(table, warehouse.version(table)).to_pandas()


def _record(name: str, value: float, unit: str, goal: str | None, meets: bool | None, data: str, seed: int) -> None:
    record(RESULTS, name, float(value), unit, goal, meets, data=data, seed=seed, command=COMMAND)


if __name__ == "__main__":
    main()
