"""What sizes by the log gain over the defaults: `python -m benchmarks.sizes toys --data <folder of amazon-titles>`.

Two nights until Universal Training on the same log by a YAML without sizes, in warehouses of their own: once with those
that ingest chooses, once with the defaults (docs/decisions/0033-sizes-by-the-log.md). Both are judged on the same
held-out users and days.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from precise_core.intake.chosen_sizes import read_sizes
from precise_core.training.checkpoint import latest
from precise_core.training.validation import NDCG

JOBS = ("ingest", "tokenize_items", "embed_tokens", "build_windows", "train_universal")
_NEVER = "2030-01-01T00:00:00Z"  # after every event
WORLDS: dict[str, dict[str, Any]] = {
    "recipes": {  # examples/your_data, run where it lies
        "as_of": "2024-03-29T00:00:00Z",
        "source": {
            "kind": "files",
            "events": {
                "path": "examples/your_data/clicks.csv",
                "user": "reader",
                "item": "recipe no",
                "time": "clicked at",
                "time_reading": {"format": "dd/MM/yyyy HH:mm:ss"},
                "scene": {"column": "page.area"},
                "action": {"column": "did"},
            },
            "items": {"path": "examples/your_data/catalog.csv", "item": "recipe no", "title": "name"},
        },
    },
    "synthetic": {
        "as_of": "2024-02-20T00:00:00Z",
        "source": {"kind": "synthetic", "users": 150, "items": 200, "days": 60, "events_per_user": 60},
    },
    "movielens": {
        "as_of": _NEVER,
        "source": {"kind": "movielens_small", "data": "ml-latest-small"},
        "windows": {"split": "leave_one_out"},
    },
    "toys": {
        "as_of": "2014-04-24T00:00:00Z",
        "source": {
            "kind": "files",
            "events": {"path": "{data}/toys.events.parquet", "user": "user_id", "item": "item_id", "time": "event_ts"},
            "items": {"path": "{data}/toys.items.parquet", "item": "item_id", "title": "title"},
        },
    },
    "grocery": {"as_of": "2017-12-04T00:00:00Z", "source": {"kind": "completejourney"}},
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("--data", help="folder of the data, of movielens and toys", metavar="FOLDER")
    parser.add_argument("--work", type=Path, default=Path("build/sizes"), help="where the warehouses go; build/sizes")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="for both nights")
    parser.add_argument("--only", choices=("by_log", "defaults"), help="one of the two nights")
    arguments = parser.parse_args(argv)
    held_out: list[str] = []
    for sizes in ("by_log", "defaults"):
        if arguments.only not in (None, sizes):
            continue
        warehouse = arguments.work / f"{arguments.world}-{sizes}"
        config = _configuration(arguments, sizes, warehouse)
        sets = [part for one in [*arguments.set, *held_out] for part in ("--set", one)]
        started = time.monotonic()
        for job in JOBS:
            if importlib.import_module(f"jobs.{job}").main(["--config", str(config), *sets]):
                raise SystemExit(f"{job} failed")
            seconds, started = time.monotonic() - started, time.monotonic()
        checkpoint = latest(warehouse / "checkpoints", "all")
        epochs = max(line["epoch"] for line in checkpoint.metrics_log() if NDCG in line)
        best, figure = f"epoch {checkpoint.manifest.best_epoch} of {epochs}", checkpoint.manifest.metrics[NDCG]
        print(f"{arguments.world}, sizes {sizes}: {NDCG} {figure:.4f}, {best}, {seconds:.0f} s of training")
        if chosen := read_sizes(warehouse):
            keys = ("windows.validation_days", "windows.validation_user_share")
            held_out = [f"{key}={chosen.values[key]}" for key in keys]


def _configuration(arguments: argparse.Namespace, sizes: str, warehouse: Path) -> Path:
    world = json.loads(json.dumps(WORLDS[arguments.world]).replace("{data}", arguments.data or "{data}"))
    if arguments.data and "data" in world["source"]:
        world["source"]["data"] = arguments.data
    world |= {"name": arguments.world, "warehouse": str(warehouse), "seed": arguments.seed, "sizes": sizes}
    world["feed"] = {"reader": "arrow"}  # the same batches, sooner
    warehouse.mkdir(parents=True, exist_ok=True)
    file = arguments.work / f"{warehouse.name}.yaml"
    file.write_text(json.dumps(world, indent=1), encoding="utf-8")  # is YAML
    return file


if __name__ == "__main__":
    main()
