"""A warehouse made by hand in front of the encoders: items, tokens, sequences, and a checkpoint that nobody trained."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from precise_core.models.precise import Precise
from precise_core.training.checkpoint import put_in_use
from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_EMBEDDINGS, ITEM_TOKENS, ITEM_VOCABULARY, ITEMS, RUNS, USER_SEQUENCES, Table
from schemas import columns as c
from tests.fake_warehouse import put
from tests.night import run
from tests.torch_world import world_catalog
from tests.training.test_checkpoints import make_model, write

USERS = 30
INDICES = range(2, world_catalog().num_rows)  # of the items that the checkpoint knows
_START = datetime(2024, 1, 1, tzinfo=UTC)

Row = dict[str, Any]


def item(index: int, **changes: Any) -> Row:
    return {c.ITEM_ID: f"i{index}", c.IS_DELETED: False} | changes


def tokens(index: int, text: str = "") -> Row:
    """The toy catalog's tokens of an item; another ``text`` has other ones."""
    token_ids = [] if index == 2 else [10 + (index + len(text)) % 2, 20 + min(index, 21)]
    return {
        c.ITEM_ID: f"i{index}",
        c.ITEM_INDEX: index,
        c.TOKEN_IDS: [*token_ids, *[0] * (3 - len(token_ids))],
        c.TOKEN_COUNT: len(token_ids),
        c.TEXT_HASH: hashlib.sha256(f"{index}{text}".encode()).hexdigest(),
        c.TOKENIZER_ID: "toy-tokenizer",
    }


def sequence(user: int, items: Sequence[int]) -> Row:
    times = [_START + timedelta(hours=number) for number in range(len(items))]
    return {
        c.USER_ID: f"u{user}",
        c.TASK: "all",
        c.ITEM_INDICES: list(items),
        c.SCENES: ["s"] * len(items),
        c.EVENT_TS: times,
        c.LENGTH: len(items),
        c.LAST_EVENT_TS: times[-1],
        c.BUCKET: user % 2,
    }


def items_of(user: int) -> list[int]:
    """Between 1 and 12 items; the model reads the newest 8."""
    return [2 + (user + 3 * step) % len(INDICES) for step in range(1 + user % 12)]


def build(warehouse: Path) -> None:
    put(warehouse, ITEMS, [item(index) for index in INDICES])
    put(warehouse, ITEM_VOCABULARY, [{c.ITEM_ID: f"i{index}", c.ITEM_INDEX: index} for index in INDICES])
    put(warehouse, ITEM_TOKENS, [tokens(index) for index in INDICES])
    put(warehouse, USER_SEQUENCES, [sequence(user, items_of(user)) for user in range(USERS)])


def make(warehouse: Path, table: Table, rows: Iterable[Row]) -> None:
    """Make ``rows`` the content of a table that is there: one more version of it."""
    house = Warehouse(str(warehouse))
    arrow = pa.Table.from_pylist(list(rows), schema=table.arrow_schema())
    write_deltalake(house.path(table), arrow, mode="overwrite", partition_by=list(table.partition_by) or None)


def change(warehouse: Path, table: Table, rows: Sequence[Row], gone: Sequence[str] = ()) -> None:
    """Replace rows with the same key (its first column), add the others, take out those of ``gone``."""
    key = table.key[0]
    kept = [row for row in read(warehouse, table) if row[key] not in {*gone, *(row[key] for row in rows)}]
    blank = dict.fromkeys(table.column_names) if not kept else kept[0]
    make(warehouse, table, [*kept, *(blank | row for row in rows)])


def read(warehouse: Path, table: Table, **where: Any) -> list[Row]:
    house = Warehouse(str(warehouse))
    rows = house.read_arrow(table, house.version(table)).to_pylist()
    return [row for row in rows if all(row[name] == value for name, value in where.items())]


def without_queries(warehouse: Path) -> int:
    """Make `item_embeddings` what a version of the code without query vectors has left; returns its version."""
    house = Warehouse(str(warehouse))
    rows = house.read_arrow(ITEM_EMBEDDINGS, house.version(ITEM_EMBEDDINGS)).drop_columns([c.QUERY_EMBEDDING])
    path, by = house.path(ITEM_EMBEDDINGS), list(ITEM_EMBEDDINGS.partition_by)
    write_deltalake(path, rows, mode="overwrite", schema_mode="overwrite", partition_by=by)
    return house.version(ITEM_EMBEDDINGS)


def train(warehouse: Path, seed: int, model: Precise | None = None, **changes: Any) -> str:
    """A checkpoint of random weights is the newest of the task `all`; returns its version."""
    checkpoint = write(warehouse / "checkpoints", model or make_model(seed=seed), **changes)
    put_in_use(warehouse / "checkpoints", "all", checkpoint)
    return checkpoint.model_version


def encoded(warehouse: Path) -> tuple[Path, str]:
    """A warehouse with the vectors of one checkpoint, and its version."""
    build(warehouse)
    version = train(warehouse, seed=1)
    for job in ("embed_items", "embed_users"):
        assert run(job, warehouse) == 0
    return warehouse, version


def metric(warehouse: Path, job: str, name: str) -> float:
    """What the last run of a job wrote down."""
    runs = [row for row in read(warehouse, RUNS) if row["job"] == job]
    return float(dict(max(runs, key=lambda row: row["started_at"])["metrics"])[name])
