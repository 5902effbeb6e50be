"""From the rows of a batch back to the windows they are, for error messages. B rows, L positions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from precise_core.feed import arrow_rows
from precise_core.feed.windows import SequenceBatch, WindowFeed
from schemas import columns as c


def window_ids(feed: WindowFeed, batches: Iterable[SequenceBatch]) -> list[str]:
    """``window_id`` of every window of ``feed`` that equals a row of the batches, sorted.

    Ids travel with no batch, because nothing but an error asks for them: the table is read for them here.
    """
    wanted = {
        _content(*row)
        for batch in batches
        for row in zip(batch.item_indices_BL.numpy(), batch.event_ts_BL.numpy(), batch.lengths_B.numpy(), strict=True)
    }
    columns = [c.ITEM_INDICES, c.EVENT_TS, c.LENGTH, c.WINDOW_ID]
    return sorted(
        str(window_id)
        for rows in arrow_rows.read_rows(feed.files, columns, first_row=0)
        for *row, window_id in zip(*(rows[name] for name in columns), strict=True)
        if _content(*row) in wanted
    )


def _content(items_L: np.ndarray, seconds_L: np.ndarray, length: int) -> tuple[tuple[int, ...], ...]:
    """The real entries, whatever the padding."""
    start = len(items_L) - length
    return tuple(items_L[start:].tolist()), tuple(seconds_L[start:].tolist())
