"""Gate of the scores of candidate pairs."""

from __future__ import annotations

from schemas import PAIR_SCORES
from schemas import columns as c
from validation.checks import LARGEST, Check, between, not_blank
from validation.suites import TableSuite


def _pair_scores() -> list[Check]:
    return [
        *not_blank(c.USER_ID, c.ITEM_ID, c.MODEL_VERSION),
        between(c.SCORE, -LARGEST, LARGEST, "is finite"),
    ]


SUITES = (TableSuite(PAIR_SCORES, _pair_scores),)
