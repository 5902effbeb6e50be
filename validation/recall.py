"""Gate of the candidates recalled."""

from __future__ import annotations

from schemas import RECALL_CANDIDATES
from schemas import columns as c
from validation.checks import LARGEST, Check, between, not_blank
from validation.suites import TableSuite


def _candidates() -> list[Check]:
    return [
        *not_blank(c.USER_ID, c.TASK, c.MODEL_VERSION, c.SOURCE, c.ITEM_ID),
        between(c.RANK, 1, None, "is at least 1"),
        between(c.SCORE, -LARGEST, LARGEST, "is finite"),
    ]


SUITES = (TableSuite(RECALL_CANDIDATES, _candidates),)
