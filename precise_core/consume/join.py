"""Point-in-time join of a team's own rows with published vectors, without Spark: pandas or Arrow in, the same out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from precise_core.consume.keys import AT, INSTANT, ITEM, USER, keys_of
from precise_core.consume.publications import publication_history, published, vector_space
from precise_core.errors import VersionMixError
from precise_core.warehouse.arrow_lists import fixed_lists
from precise_core.warehouse.reader import TableReader
from schemas import ITEM_EMBEDDINGS, USER_EMBEDDINGS, Table
from schemas import columns as c

PUBLISHED = "published"  # the checkpoint that is published now
AS_OF = "as_of"  # for each row the checkpoint that was published at its instant

_VECTOR = pa.list_(pa.float32())

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
    ``PUBLISHED`` that is what is published now, for rows since then; rows of before have null: take ``AS_OF`` for them.
    With the name of a checkpoint it is what the tables hold of it now, from each user's `as_of` on. As many rows come
    back as went in: where the user or the item is missing its vector is null, where the time is missing everything is.

    Args:
        rows: A pandas DataFrame or an Arrow table; ids are text, instants of any unit have a time zone.
        warehouse: The folder named `warehouse` in the configuration.
        at: Column with the instant that a row must not look beyond.
        task: Whose user vectors.
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
        columns = _at_each_publication(keys, warehouse, task)
    elif version == PUBLISHED:
        now = published(warehouse, task)
        columns = _join(keys, _Checkpoint(warehouse, task, now.model_version, now.space, now.last), now.valid_from)
    else:
        space = vector_space(warehouse, version)
        named = _Checkpoint(warehouse, task, version, space, {})
        columns = _join(keys, named, named.since())
    if isinstance(rows, pd.DataFrame):
        return rows.assign(**{name: columns[name].to_pandas().to_numpy() for name in columns.column_names})
    for name in columns.column_names:
        rows = rows.append_column(name, columns[name])
    return rows


@dataclass(frozen=True)
class _Checkpoint:
    """The vectors of one checkpoint in pinned versions of the tables."""

    warehouse: str | Path
    task: str
    model_version: str
    space: str
    versions: Mapping[str, int]

    def users(self, columns: Sequence[str], ids: pa.Array | None = None) -> pa.Table:
        return self._read(USER_EMBEDDINGS, columns, ds.field(c.TASK) == self.task, c.USER_ID, ids)

    def items(self, columns: Sequence[str], ids: pa.Array) -> pa.Table:
        return self._read(ITEM_EMBEDDINGS, columns, None, c.ITEM_ID, ids)

    def since(self) -> datetime:
        """From when on there were vectors: the first instant that a user of this checkpoint was encoded for.

        Raises:
            VersionMixError: There are none; the message names the checkpoints that there are.
        """
        instants = self.users([c.AS_OF])[c.AS_OF]
        if not len(instants):
            of_task = ds.field(c.TASK) == self.task
            rows = TableReader(self.warehouse).read(USER_EMBEDDINGS, [c.MODEL_VERSION], of_task)
            raise VersionMixError(
                f"user_embeddings has no vectors of {self.model_version!r} for task {self.task!r}; it has those of "
                f"{sorted(rows[c.MODEL_VERSION].unique().to_pylist())}"
            )
        return pc.min(instants).as_py()

    def _read(
        self, table: Table, columns: Sequence[str], also: ds.Expression | None, key: str, ids: pa.Array | None
    ) -> pa.Table:
        where = ds.field(c.MODEL_VERSION) == self.model_version
        where = where if also is None else where & also
        where = where if ids is None else where & ds.field(key).isin(ids)
        return TableReader(self.warehouse).read(table, columns, where, self.versions.get(table.name))


def _at_each_publication(keys: pa.Table, warehouse: str | Path, task: str) -> pa.Table:
    """Every row against the tables as they stood at the last publication before its instant."""
    history = publication_history(warehouse, task)
    starts = pa.array([publication.valid_from for publication in history], INSTANT)
    # A row without a time gets nothing wherever it is counted.
    starts_P, at_R = (column.cast(pa.int64()).fill_null(0).to_numpy() for column in (starts, _column(keys, AT)))
    place_R = np.maximum(np.searchsorted(starts_P, at_R, side="right") - 1, 0)
    parts, order = [], []
    for number in np.unique(place_R):
        mine, was = np.flatnonzero(place_R == number), history[number]
        checkpoint = _Checkpoint(warehouse, task, was.model_version, was.space, was.first)
        ended_with = replace(checkpoint, versions=was.last) if was.last != was.first else None
        parts.append(_join(keys.take(mine), checkpoint, was.valid_from, ended_with))
        order.append(mine)
    if not parts:
        newest = history[-1]
        return _join(
            keys, _Checkpoint(warehouse, task, newest.model_version, newest.space, newest.last), newest.valid_from
        )
    return pa.concat_tables(parts).take(np.argsort(np.concatenate(order), kind="stable"))


def _join(keys: pa.Table, checkpoint: _Checkpoint, since: datetime, ended_with: _Checkpoint | None = None) -> pa.Table:
    """The added columns; no vector for a row before ``since``.

    Items that were computed between two nights are only in what the first of them ``ended_with``; they count from the
    moment they were computed.
    """
    user_ids, item_ids, at = (_column(keys, name) for name in (USER, ITEM, AT))
    users = checkpoint.users([c.USER_ID, c.EMBEDDING, c.AS_OF], user_ids.unique()).combine_chunks()
    items = checkpoint.items([c.ITEM_ID, c.EMBEDDING], item_ids.unique()).combine_chunks()
    is_late_enough = pc.greater_equal(at, pa.scalar(since, INSTANT))
    rows_of_items = _where(is_late_enough, pc.index_in(item_ids, _column(items, c.ITEM_ID)))
    rows_of_users = _where(is_late_enough, pc.index_in(user_ids, _column(users, c.USER_ID)))
    is_known = pc.less_equal(_column(users, c.AS_OF).take(rows_of_users), at)
    rows_of_users = _where(is_known, rows_of_users)
    user_vectors, item_vectors = (
        _column(found, c.EMBEDDING).cast(_VECTOR).take(rows)
        for found, rows in ((users, rows_of_users), (items, rows_of_items))
    )
    if ended_with is not None:
        later = ended_with.items([c.ITEM_ID, c.EMBEDDING, c.EMBEDDED_AT], item_ids.unique()).combine_chunks()
        rows_of_later = _where(is_late_enough, pc.index_in(item_ids, _column(later, c.ITEM_ID)))
        is_computed = pc.less_equal(_column(later, c.EMBEDDED_AT).take(rows_of_later), at)
        computed = _column(later, c.EMBEDDING).cast(_VECTOR).take(_where(is_computed, rows_of_later))
        item_vectors = pc.coalesce(computed, item_vectors)
    return pa.table(
        {
            c.USER_EMBEDDING: user_vectors,
            c.ITEM_EMBEDDING: item_vectors,
            c.PRECISE_SCORE: _dot(user_vectors, item_vectors),
            c.MODEL_VERSION: pc.if_else(at.is_valid(), checkpoint.model_version, pa.scalar(None, pa.string())),
            c.VECTOR_SPACE: pc.if_else(at.is_valid(), checkpoint.space, pa.scalar(None, pa.string())),
        }
    )


def _where(condition: pa.Array, rows: pa.Array) -> pa.Array:
    """``rows`` where ``condition`` is true; null where it is false or null."""
    return pc.if_else(pc.fill_null(condition, False), rows, pa.scalar(None, rows.type))


def _column(table: pa.Table, name: str) -> pa.Array:
    return table[name].combine_chunks()


def _dot(left: pa.Array, right: pa.Array) -> pa.Array:
    """Dot products in float64, kept as float32; null where either vector is."""
    both = pc.and_(left.is_valid(), right.is_valid())
    scores = np.zeros(len(both), np.float32)
    known = both.to_numpy(zero_copy_only=False)
    if known.any():
        lefts, rights = (fixed_lists(side.filter(both)) for side in (left, right))
        scores[known] = np.einsum("rd,rd->r", lefts, rights, dtype=np.float64)
    return pa.array(scores, mask=~known)
