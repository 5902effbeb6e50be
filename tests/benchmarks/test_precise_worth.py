"""What a model of sequences is worth: what it finds, and what its finds displace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.precise_worth import compared
from precise_core.settings import Settings
from schemas import columns as c
from tests.fake_warehouse import settings_of
from tests.recommendations.ranked_lists import rows, small


def both_splits() -> pa.Table:
    """Lists to train on and held-out ones, of other users."""
    parts = []
    for seed, split in ((1, c.TRAIN), (2, c.VALIDATION)):
        part = rows(seed, lists=80, tasks=("all",))
        parts.append(part.append_column(c.SPLIT, pa.array([split] * len(part))))
    return pa.concat_tables(parts)


def settings(tmp_path: Path) -> Settings:
    found = settings_of(tmp_path)
    recommendations = found.recommendations.model_copy(update={"ranker": small(epochs=4, losses=("list",)), "k": 5})
    return found.model_copy(update={"recommendations": recommendations})


def test_scores_that_tell_what_is_taken_gain(tmp_path: Path) -> None:
    table = both_splits()
    at = table.column_names.index("precise_universal")
    told = pa.array(np.asarray(table[c.LABEL], np.float32))
    gain = compared(table.set_column(at, "precise_universal", told), table, settings(tmp_path))["all"]["all"]
    assert gain["ci_low"] > 0 and gain["with"] > 0.95


def test_what_the_model_displaced_counts_against_it(tmp_path: Path) -> None:
    """Its arm has lost one of the three items that were taken of each list; the other arm has them all."""
    table = both_splits()
    frame = table.select([c.USER_ID, c.LABEL]).to_pandas()
    is_first = (frame[c.LABEL] == 1) & (frame.groupby(c.USER_ID)[c.LABEL].cumsum() == 1)
    gain = compared(table.filter(pa.array(~is_first)), table, settings(tmp_path))["all"]["all"]
    assert gain["ci_high"] < -0.1 and gain["lists"] == 80
