"""What could be reached with some candidates, on lists small enough to count by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.list_ceiling import by_source, own_orders, reachable
from schemas import columns as c


def cells(lines: list[str]) -> dict[tuple[str, str], list[str]]:
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {(row[0], row[1]): row[2:] for row in found}


@pytest.fixture
def rows() -> pd.DataFrame:
    """One user with four candidates of task `all`, two of them taken, and one of whom no candidate was taken."""
    return pd.DataFrame(
        {
            c.USER_ID: ["u"] * 4,
            c.TASK: ["all"] * 4,
            c.LABEL: [1, 1, 0, 0],
            c.IS_REPEAT: [True, False, False, True],
            "rank_history": [1.0, 0.0, 0.0, 1.0],
            "rank_text": [0.0, 0.5, 0.0, 0.0],
            "rank_popular_7d": [0.2, 0.0, 0.3, 0.0],
            "rank_first_time_7d": [0.3, 0.0, 0.0, 0.0],
        }
    )


TAKEN = pd.DataFrame([("u", True), ("u", False), ("u", False), ("v", False)], columns=[c.USER_ID, c.IS_REPEAT]).assign(
    task="all"
)


def test_what_no_source_found_counts_against_the_candidates(rows: pd.DataFrame) -> None:
    places = 1 / np.log2(np.arange(3) + 2)
    found = cells(reachable(rows, TAKEN, 50))
    assert found["all", "all"] == [f"{places[:2].sum() / places.sum() / 2:.4f}", f"{2 / 3 / 2:.4f}", "4", "2"]
    assert found["all", "new"] == [f"{places[0] / places[:2].sum() / 2:.4f}", f"{1 / 2 / 2:.4f}", "2", "2"]
    assert found["all", "repeat"] == ["1.0000", "1.0000", "2", "1"]


def test_more_than_the_places_of_a_list_are_not_needed(rows: pd.DataFrame) -> None:
    assert cells(reachable(rows, TAKEN, 1))["all", "new"][0] == "0.5000"


def test_a_source_finds_and_alone_finds_shares_of_what_was_taken(rows: pd.DataFrame) -> None:
    lines = by_source(rows, TAKEN)
    assert [head.strip() for head in lines[0].strip("|").split("|")][2:] == ["history %", "text %", "trending %"]
    found = cells(lines)
    assert found["all", "all"] == ["25.0 (0.0)", "25.0 (25.0)", "25.0 (0.0)"]
    assert found["all", "new"] == ["0.0 (0.0)", "33.3 (33.3)", "0.0 (0.0)"]


def test_a_source_is_judged_by_its_own_order(rows: pd.DataFrame) -> None:
    """`v` has nothing of any source; the popular list has a miss before what `u` took."""
    lines = own_orders(rows, TAKEN, 50)
    places = 1 / np.log2(np.arange(3) + 2)
    names = [head.strip() for head in lines[0].strip("|").split("|")][2:]
    assert names == ["history", "text", "popular_7d", "first_time_7d"]
    best = places.sum()
    expected = [places[0] / best / 2, places[0] / best / 2, places[1] / best / 2, places[0] / best / 2]
    assert cells(lines)["all", "all"] == [f"{value:.4f}" for value in expected]
    assert cells(lines)["all", "new"][2] == "0.0000"
