"""The lists of recommendations, for the teams that show them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from precise_core.errors import DataError
from precise_core.warehouse.reader import TableReader
from schemas import RECOMMENDATIONS
from schemas import columns as c

_PLACE = "_place"


def recommendations(
    warehouse: str | Path, user_ids: Sequence[str], *, task: str = "all", name: str = "all", k: int | None = None
) -> pa.Table:
    """The lists of some users, rows of `recommendations` in the order of ``user_ids`` and then of rank.

    A user without any list of this task gets the one of `(anybody)`, under his own id. There is no row for a user who
    has others and nothing on this one, as whoever had everything has nothing new, nor for one without any where there
    is none of `(anybody)` either, as of repeats.

    Args:
        user_ids: Each once.
        name: Which list (`recommendations.lists` of the configuration).
        k: Only the first k places.

    Raises:
        MissingTableError: The folder is no warehouse, or no lists were made yet.
        DataError: There are no lists of the task or of the name; the message names those that there are.
    """
    tables = TableReader(warehouse)
    of_task, of_list = ds.field(c.TASK) == task, ds.field(c.LIST) == name
    wanted = pa.array([*user_ids, c.ANYBODY], pa.string())
    every = tables.read(RECOMMENDATIONS, RECOMMENDATIONS.column_names, of_task & ds.field(c.USER_ID).isin(wanted))
    with_lists = set(every[c.USER_ID].unique().to_pylist()) - {c.ANYBODY}
    rows = every.filter(pc.equal(every[c.LIST], name))
    if not rows.num_rows and not tables.read(RECOMMENDATIONS, [c.USER_ID], of_task & of_list).num_rows:
        there = tables.read(RECOMMENDATIONS, [c.TASK, c.LIST]).group_by([c.TASK, c.LIST]).aggregate([]).to_pylist()
        known = sorted({f"{row[c.TASK]} / {row[c.LIST]}" for row in there})
        raise DataError(f"recommendations: no list {name!r} of task {task!r}; there are {known}")
    if k is not None:
        rows = rows.filter(pc.less_equal(rows[c.RANK], k))
    is_own = pc.not_equal(rows[c.USER_ID], c.ANYBODY)
    own, common = rows.filter(is_own), rows.filter(pc.invert(is_own))
    at = own.schema.get_field_index(c.USER_ID)
    parts = [own]
    for user_id in user_ids:
        if user_id not in with_lists:
            parts.append(common.set_column(at, c.USER_ID, pa.array([user_id] * common.num_rows, pa.string())))
    found = pa.concat_tables([part.cast(own.schema) for part in parts])
    in_order = found.append_column(_PLACE, pc.index_in(found[c.USER_ID], wanted))
    return in_order.sort_by([(_PLACE, "ascending"), (c.RANK, "ascending")]).drop([_PLACE])
