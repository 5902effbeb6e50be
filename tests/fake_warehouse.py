"""A small warehouse of a whole night, written without Spark: what the report reads, with figures chosen by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

import schemas
from precise_core.config.tasks import TaskConfig
from precise_core.settings import Settings
from precise_core.sources.config import SyntheticSource
from schemas import Table
from schemas import columns as c

AS_OF = datetime(2024, 3, 1, tzinfo=UTC)
USERS, ITEMS, SCENES = 60, 120, ("articles", "videos", "live $5 & $6")
EVIL = "<script>alert('x')</script> & Sons"
UNIVERSAL, TARGETED = "universal-3f9ac1", "targeted-share-77b0e2"


def settings_of(warehouse: Path, **changes: Any) -> Settings:
    tasks = {"share": TaskConfig(action="share")}
    return Settings(
        name="fake",
        warehouse=str(warehouse),
        as_of=AS_OF,
        source=SyntheticSource.model_validate({"kind": "synthetic"}),
        tasks=tasks,
        **changes,
    )


def put(
    warehouse: Path, table: Table, rows: list[dict[str, Any]], mode: Literal["append", "overwrite"] = "append"
) -> None:
    """Write rows as the jobs do."""
    path = warehouse / "tables" / table.name
    path.mkdir(parents=True, exist_ok=True)
    arrow = rows_with_defaults(table, rows)
    write_deltalake(str(path), arrow, mode=mode, partition_by=list(table.partition_by) or None)


def rows_with_defaults(table: Table, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of a table; columns that a test does not care about get a plain default."""
    schema = table.arrow_schema()
    plain = {"string": "", "int32": 0, "int64": 0, "double": 0.0, "bool": False, "timestamp[us, tz=UTC]": AS_OF}
    defaults = {f.name: None if f.nullable else plain.get(str(f.type), []) for f in schema}
    return pa.Table.from_pylist([defaults | row for row in rows], schema=schema)


def figures_of(question: str, task: str, values: dict[str, float], **more: Any) -> list[dict[str, Any]]:
    """Metric rows, one per system; the interval is a tenth of the value to each side."""
    base = {"question": question, c.TASK: task, "user_filter": "all", "item_group": "all", "metric": "ndcg", "k": 50}
    base |= {"users": 2464, c.AS_OF: AS_OF} | more
    return [
        base | {"system": system, "value": value, "ci_low": value * 0.9, "ci_high": value * 1.1}
        for system, value in values.items()
    ]


def all_metrics() -> list[dict[str, Any]]:
    systems = {"PRECISE-UT": 0.137, "PRECISE-UT untrained": 0.011, "most_popular_7d": 0.127, "item_knn": 0.139}
    rows: list[dict[str, Any]] = []
    for task, own in (("all", {}), ("share", {"PRECISE": 0.2})):
        for user_filter, factor, extra in (("all", 1.0, {"personal_frequency": 0.292}), ("new", 0.3, {})):
            for group, share in (("all", 1.0), ("hot", 1.2), ("cold", 0.2), ("rare", 0.1), ("unseen", 0.02)):
                for metric, k in ((m, k) for m in ("recall", "ndcg") for k in (10, 30, 50)):
                    scale = factor * share * (0.5 + k / 100) * (1.1 if metric == "recall" else 1.0)
                    values = {name: value * scale for name, value in (systems | own | extra).items()}
                    place = {"user_filter": user_filter, "item_group": group, "metric": metric, "k": k}
                    rows += figures_of("retrieval", task, values, **place)
        for k in (10, 50):
            rows += figures_of("recall", task, {"u2i": 0.002 * k, "u2i2i": 0.0031 * k}, metric="recall", k=k)
    rankers = {"DCN": (0.7312, 0.664, 0.4471), "DCN + PRECISE-UT": (0.7421, 0.671, 0.4402)}
    for system, found in rankers.items():
        for metric, value in zip(("auc", "gauc", "log_loss"), found, strict=True):
            row = figures_of("ranking", "all", {system: value}, metric=metric, k=0)[0]
            rows.append(row | {"ci_low": value - 0.002, "ci_high": value + 0.002})
    return rows


def events(rng: np.random.Generator) -> list[dict[str, Any]]:
    weights = 1 / np.arange(1, ITEMS - 9)
    rows: list[dict[str, Any]] = []
    for number in range(3000):
        when = AS_OF - timedelta(days=60) + timedelta(minutes=31 * number)
        item = int(rng.choice(ITEMS - 10, p=weights / weights.sum()))
        scene = SCENES[int(rng.choice(3, p=[0.6, 0.3, 0.1]))]
        rows.append(
            {
                c.EVENT_ID: f"e{number}",
                c.USER_ID: f"user-{number % USERS}",
                c.ITEM_ID: f"i{item}",
                c.SCENE: scene,
                c.ACTION: "share" if number % 9 == 0 else "click",
                c.EVENT_TS: when,
                c.EVENT_DATE: when.date(),
            }
        )
    return rows


def sequences(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in ("all", "share"):
        for user in range(USERS):
            mine = [
                row for row in rows
                if row[c.USER_ID] == f"user-{user}" and row[c.EVENT_TS] < AS_OF and task in ("all", row[c.ACTION])
            ]  # fmt: skip
            mine = mine[user % 17 :]
            if mine:
                yield {
                    c.USER_ID: f"user-{user}", c.TASK: task, c.LENGTH: len(mine), c.BUCKET: user % 4,
                    c.ITEM_INDICES: [int(row[c.ITEM_ID][1:]) + 2 for row in mine],
                    c.SCENES: [row[c.SCENE] for row in mine], c.EVENT_TS: [row[c.EVENT_TS] for row in mine],
                    c.LAST_EVENT_TS: mine[-1][c.EVENT_TS],
                }  # fmt: skip


def candidates() -> Iterator[dict[str, Any]]:
    for user in range(USERS):
        for task, version in (("all", UNIVERSAL), ("share", TARGETED)):
            for source in ("u2i", "u2i2i"):
                for rank in range(1, 13):
                    yield {
                        c.USER_ID: f"user-{user}", c.TASK: task, c.MODEL_VERSION: version, c.SOURCE: source,
                        c.RANK: rank, c.ITEM_ID: f"i{(user + 7 * rank) % 40}", c.SCORE: 1 / rank,
                        c.SEED_ITEM_ID: f"i{rank % 5}" if source == "u2i2i" else None,
                    }  # fmt: skip


def runs() -> list[dict[str, Any]]:
    jobs: list[tuple[str, int, float, dict[str, str]]]
    jobs = [("ingest", 3020, 41.2, {}), ("tokenize_items", 120, 6.4, {}), ("build_sequences", 3000, 18.9, {})]
    jobs += [("train_universal", 5400, 612.0, {"all": UNIVERSAL}), ("train_targeted", 600, 95.5, {"share": TARGETED})]
    jobs += [("embed_items", 120, 9.1, {}), ("score_pairs", 7200, 11.8, {}), ("evaluate", 120, 88.0, {})]
    return [
        {
            c.RUN_ID: f"r{number}", c.JOB: job, "status": "succeeded", "started_at": AS_OF + timedelta(minutes=number),
            "seconds": seconds, "rows_in": rows, "rows_out": rows, "row_unit": "event", "config_hash": "h",
            "code_version": "0.1.0", "metrics": [("rows_per_batch", 12.0)], "artefacts": list(made.items()),
            "output_versions": [("events", 0)], "configuration": "{}",
        }
        for number, (job, rows, seconds, made) in enumerate(jobs)
    ]  # fmt: skip


def put_checkpoint(warehouse: Path, name: str, version: str) -> None:
    folder = warehouse / "checkpoints" / version
    folder.mkdir(parents=True)
    (folder.parent / f"latest-{name}.json").write_text(json.dumps({"model_version": version}))
    (folder / "manifest.json").write_text(json.dumps({"stage": name, "parent": None, "format": 1}))
    lines = []
    for step in range(1, 41):
        line: dict[str, Any] = {"step": step * 10, "epoch": step // 14, "loss": 7.1 * 0.97**step, "learning_rate": 1e-3}
        line |= {"sequences_per_second": 410.0, "expert_load": [0.8, 0.6, 0.4, 0.2]}
        if step % 13 == 0:
            line |= {"validation_ndcg_at_50": 0.004 * step, "validation_recall_at_10": 0.002 * step}
        lines.append(json.dumps(line))
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 999, "lo']))  # killed while it wrote


def put_whole_night(root: Path) -> None:
    rows = events(np.random.default_rng(3))
    titles = [EVIL if item == 7 else f"Item {item}: a title of some length" for item in range(ITEMS)]
    put(root, schemas.EVENTS, rows)
    put(root, schemas.ITEMS, [{c.ITEM_ID: f"i{item}", c.TITLE: title} for item, title in enumerate(titles)])
    reasons = ["time is missing"] * 17 + ["item is unknown"] * 3
    put(root, schemas.EVENTS_REJECTED, [{c.REASON: reason, c.SOURCE_FILE: "day1.csv"} for reason in reasons])
    put(root, schemas.IMPRESSIONS, [{c.IMPRESSION_ID: str(n), c.USER_ID: "user-1", c.ITEM_ID: "i1"} for n in range(50)])
    put(root, schemas.ITEM_VOCABULARY, [{c.ITEM_ID: f"i{item}", c.ITEM_INDEX: item + 2} for item in range(ITEMS)])
    put(root, schemas.USER_SEQUENCES, list(sequences(rows)))
    windows = [{c.WINDOW_ID: str(n), c.TASK: "all", c.SPLIT: "validation" if n < 6 else "train"} for n in range(60)]
    put(root, schemas.TRAINING_WINDOWS, windows)
    vectors = [{c.ITEM_ID: f"i{n}", c.MODEL_VERSION: UNIVERSAL, c.IS_COLD: n >= ITEMS - 12} for n in range(ITEMS)]
    put(root, schemas.ITEM_EMBEDDINGS, vectors)
    published = [
        {c.TASK: task, c.MODEL_VERSION: version} for task, version in (("all", UNIVERSAL), ("share", TARGETED))
    ]
    put(root, schemas.PUBLISHED_MODELS, published)
    put(root, schemas.RECALL_CANDIDATES, list(candidates()))
    put(root, schemas.EVALUATION_METRICS, all_metrics())
    checks = [{"table_name": "events", "expectation": f"rule_{n}", c.RUN_ID: "r0", "success": True} for n in range(9)]
    put(root, schemas.VALIDATION_RESULTS, checks)
    put(root, schemas.RUNS, runs())
    put_checkpoint(root, "all", UNIVERSAL)
    put_checkpoint(root, "share", TARGETED)


def list_figures(
    gains: dict[tuple[str, str], tuple[float, float, float]], references: dict[str, float]
) -> list[dict[str, Any]]:
    """The published lists at `gains` (difference, low, high by task and filter) above the best of some references."""
    rows: list[dict[str, Any]] = []
    best = max(references, key=lambda name: references[name])
    for (task, user_filter), (gain, low, high) in gains.items():
        place = {"user_filter": user_filter}
        rows += figures_of("retrieval", task, references, **place)
        rows += figures_of("recommendations", task, {"recommendations": references[best] + gain}, **place)
        row = figures_of("recommendations", task, {"recommendations": gain}, metric="ndcg_gain", **place)[0]
        rows.append(row | {"ci_low": low, "ci_high": high, "reference": best, "p_value": 0.012})
    return rows


def recommendations() -> Iterator[dict[str, Any]]:
    for user in (*(f"user-{number}" for number in range(USERS)), c.ANYBODY):
        for task in ("all", "share"):
            for name in ("all", "new", "repeat")[: 2 if user == c.ANYBODY else 3]:
                for rank in range(1, 13):
                    found = ["u2i"] if rank == 12 else ["history", "u2i"] if rank > 6 else ["history", "popular"]
                    yield {
                        c.USER_ID: user, c.TASK: task, c.LIST: name, c.RANK: rank, c.ITEM_ID: f"i{4 + rank}",
                        c.SCORE: 1 / rank, c.SOURCES: ["popular"] if user == c.ANYBODY else found,
                        c.REASON: f"goes with Item {rank}" if name == "new" else f"taken {rank} times before",
                        c.MODEL_VERSION: "lists-1/list", c.AS_OF: AS_OF,
                    }  # fmt: skip
