"""Point-in-time join of a team's own rows with published vectors, without Spark: pandas or Arrow in, the same out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from precise_core.consume.keys import AT, INSTANT, ITEM, USER, keys_of
from precise_core.consume.publications import Publication, publication_history, published, vector_space
from precise_core.errors import VersionMixError
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.reader import TableReader
from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS, Table
from schemas import columns as c

PUBLISHED = "published"  # the checkpoint that is published now
AS_OF = "as_of"  # for each row the checkpoint that was published at its instant

_VECTOR = pa.list_(pa.float32())
_BEFORE_ALL = np.iinfo(np.int64).min

Rows = TypeVar("Rows", pd.DataFrame, pa.Table)


def join_vectors(
    rows: Rows,
    warehouse: str | Path,
    *,
    at: str,
    task: str = "all",
    version: str = PUBLISHED,
    user: str = c.USER_ID,
    item: str = c.ITEM_ID,
) -> Rows:
    """``rows`` with user_embedding, item_embedding, precise_score, model_version and vector_space, in the same order.

    Both vectors of a row are of one checkpoint. A row gets no vector that readers did not have at its instant: where
    nothing was published yet, or an item or a user was not in what was, it is left null rather than filled in. With
    ``PUBLISHED`` that is what is published now, for rows since then; earlier rows have null: take ``AS_OF`` for them.
    With the name of a checkpoint it is what the tables hold of it now, from each user's `as_of` on. As many rows come
    back as went in: where the user or the item is missing its vector is null, where the time is missing everything is.

    Args:
        rows: A pandas DataFrame or an Arrow table; ids are text, instants of any unit have a time zone.
        warehouse: The folder named `warehouse` in the configuration.
        at: Column with the instant that a row must not look beyond.
        version: ``PUBLISHED``, ``AS_OF``, or the name of a checkpoint.
        user: Column with the user's id.
        item: Column with the item's id.

    Raises:
        SchemaError: A column is missing or of another type, or one would be overwritten.
        MissingTableError: The folder is no warehouse, or nothing is published yet.
        CheckpointError: Nothing is published for the task.
        VersionMixError: The tables have no vectors of ``version``.
    """
    keys = keys_of(rows, at, user, item)
    if version == AS_OF:
        history = publication_history(warehouse, task)
    else:
        history = [published(warehouse, task) if version == PUBLISHED else _as_it_is_now(warehouse, task, version)]
    columns = _added(keys, warehouse, history)
    if isinstance(rows, pd.DataFrame):
        return rows.assign(**{name: columns[name].to_pandas().to_numpy() for name in columns.column_names})
    for name in columns.column_names:
        rows = rows.append_column(name, columns[name])
    return rows


def _as_it_is_now(warehouse: str | Path, task: str, version: str) -> Publication:
    """The current vectors of a checkpoint, valid from the first instant that a user was encoded for."""
    of_task, of_version = ds.field(c.TASK) == task, ds.field(c.MODEL_VERSION) == version
    tables = TableReader(warehouse)
    instants = tables.read(USER_EMBEDDINGS, [c.AS_OF], of_version & of_task)[c.AS_OF]
    if not len(instants):
        there = tables.read(USER_EMBEDDINGS, [c.MODEL_VERSION], of_task)[c.MODEL_VERSION].unique()
        raise VersionMixError(
            f"user_embeddings has no vectors of {version!r} for task {task!r}; it has those of "
            f"{sorted(there.to_pylist())}"
        )
    since = pc.min(instants).as_py()
    return Publication(task, version, since, since, vector_space(warehouse, version), {}, {}, since)


def _added(keys: pa.Table, warehouse: str | Path, history: Sequence[Publication]) -> pa.Table:
    """The added columns: every row against the tables as they were at the last publication before its instant."""
    at_R, starts_P = _micros(keys[AT]), _micros(pa.array([was.valid_from for was in history], INSTANT))
    place_R = np.maximum(np.searchsorted(starts_P, at_R, side="right") - 1, 0)
    tables, users, items = TableReader(warehouse), [], []
    for place in np.unique(place_R) if len(place_R) else [len(history) - 1]:
        was, mine = history[place], keys.filter(pa.array(place_R == place))
        users_then = _read(tables, was, USER_EMBEDDINGS, was.first, mine[USER])
        items_then = _read(tables, was, ITEM_EMBEDDINGS, was.first, mine[ITEM])
        users.append(_held(place, users_then, np.maximum(_micros(users_then[c.AS_OF]), starts_P[place])))
        items.append(_held(place, items_then, np.full(len(items_then), starts_P[place])))
        if was.last != was.first:  # items that were computed between two nights count from that moment
            later = _read(tables, was, ITEM_EMBEDDINGS, was.last, mine[ITEM])
            items.append(_held(place, later, np.maximum(_micros(later[c.EMBEDDED_AT]), starts_P[place])))
    user_vectors, item_vectors = _newest(keys[USER], place_R, at_R, users), _newest(keys[ITEM], place_R, at_R, items)
    places = pc.if_else(keys[AT].is_valid(), pa.array(place_R), None)
    return pa.table(
        {
            c.USER_EMBEDDING: user_vectors,
            c.ITEM_EMBEDDING: item_vectors,
            c.PRECISE_SCORE: _dot(user_vectors, item_vectors),
            c.MODEL_VERSION: pa.array([was.model_version for was in history]).take(places),
            c.VECTOR_SPACE: pa.array([was.space for was in history]).take(places),
        }
    )


def _read(
    tables: TableReader, was: Publication, table: Table, versions: Mapping[str, int], ids: pa.ChunkedArray
) -> pa.Table:
    """The vectors of these users or items in one version of a table, and when each was made."""
    where = (ds.field(c.MODEL_VERSION) == was.model_version) & ds.field(table.key[0]).isin(ids.unique())
    if table == USER_EMBEDDINGS:
        where = where & (ds.field(c.TASK) == was.task)
    made = c.AS_OF if table == USER_EMBEDDINGS else c.EMBEDDED_AT
    return tables.read(table, [table.key[0], c.EMBEDDING, made], where, versions.get(table.name))


def _held(place: int, found: pa.Table, since_N: np.ndarray) -> pa.Table:
    """Vectors of a publication, and since when readers had them."""
    key, vector = found.columns[:2]
    return pa.table({"id": key, "vector": vector.cast(_VECTOR), "place": np.full(len(found), place), "since": since_N})


def _newest(ids: pa.ChunkedArray, place_R: np.ndarray, at_R: np.ndarray, held: Sequence[pa.Table]) -> pa.Array:
    """For each row the newest vector of its id in its publication at its instant; null where there was none."""
    vectors = pa.concat_tables(held)
    distinct = vectors["id"].unique()
    ids_R, ids_N = (pc.index_in(column, distinct).fill_null(-1).to_numpy() for column in (ids, vectors["id"]))
    rows = pd.DataFrame({"row": np.arange(len(ids)), "id": ids_R, "place": place_R, "at": at_R})
    known = pd.DataFrame({"found": np.arange(len(vectors)), "id": ids_N})
    known = known.assign(place=vectors["place"].to_numpy(), since=vectors["since"].to_numpy())
    # Stable: of two vectors since one instant it is the one that was published last.
    rows, known = rows.sort_values("at", kind="stable"), known.sort_values("since", kind="stable")
    joined = pd.merge_asof(rows, known, left_on="at", right_on="since", by=["id", "place"]).sort_values("row")
    return vectors["vector"].combine_chunks().take(pa.array(joined["found"].astype("Int64")))


def _micros(instants: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Microseconds since 1970, int64; a missing instant lies before all."""
    return instants.cast(pa.int64()).fill_null(_BEFORE_ALL).to_numpy()


def _dot(left: pa.Array, right: pa.Array) -> pa.Array:
    """Dot products in float64, kept as float32; null where either vector is."""
    both = pc.and_(left.is_valid(), right.is_valid())
    scores = np.zeros(len(both), np.float32)
    known = both.to_numpy(zero_copy_only=False)
    if known.any():
        lefts, rights = (fixed_lists(side.filter(both)) for side in (left, right))
        scores[known] = np.einsum("rd,rd->r", lefts, rights, dtype=np.float64)
    return pa.array(scores, mask=~known)
