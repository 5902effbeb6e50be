"""From the rows of a batch back to the windows they are, for error messages. B rows, L positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from precise_core.feed import arrow_rows
from precise_core.feed.rows import Rows
from precise_core.feed.windows import SequenceBatch, WindowFeed
from schemas import columns as c


def window_ids(feed: WindowFeed, batch: SequenceBatch) -> list[str]:
    """``window_id`` of every window of ``feed`` that equals a row of ``batch``, sorted.

    Ids travel with no batch, because nothing but an error asks for them: the table is read for them here.
    """
    wanted = {_content(*row) for row in zip(batch.item_indices_BL, batch.event_ts_BL, batch.lengths_B, strict=True)}
    columns = [c.ITEM_INDICES, c.EVENT_TS, c.LENGTH, c.WINDOW_ID]
    portions: Sequence[Rows] = list(arrow_rows.read_rows(feed.files, columns, first_row=0))
    return sorted(
        str(window_id)
        for rows in portions
        for *row, window_id in zip(*(rows[name] for name in columns), strict=True)
        if _content(*map(torch.as_tensor, row)) in wanted
    )


def _content(items_L: torch.Tensor, seconds_L: torch.Tensor, length: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    """The real entries, whatever the padding."""
    start = len(items_L) - int(length)
    return tuple(items_L[start:].tolist()), tuple(seconds_L[start:].tolist())
