"""Compare two warehouses table by table: `python -m benchmarks.same_tables <warehouse> <other warehouse>`.

For a change of code that must change no row: run the same night with either code, then this. Says for every table how
many rows are in one of the two only; exit code 1 where there are any. Times of writing and run ids are left out, and
the hashes in the names of checkpoints and indexes.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from precise_core import consume
from schemas import RUNS, TABLES, VALIDATION_RESULTS

# Different in every run of the same code: times of writing, and what identifies a table or a version of one.
_OF_A_RUN = {
    "run_id", "rejected_at", "ingested_at", "taken_at", "embedded_at", "published_at", "valid_from", "seconds",
    "checked_at", "table_id", "table_versions", "modified_ns",
}  # fmt: skip
_HASH = re.compile(r"-[0-9a-f]{6,}")  # in names of checkpoints, indexes and ranking models
_HISTORY = (RUNS, VALIDATION_RESULTS)  # of the runs, not of the data


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("warehouses", nargs=2, type=Path, metavar="WAREHOUSE")
    one, other = parser.parse_args(argv).warehouses
    found = {table.name: difference(one, other, table.name) for table in TABLES if table not in _HISTORY}
    for name, what in found.items():
        print(f"{name}: {what or 'the same rows'}")
    return int(any(found.values()))


def difference(one: Path, other: Path, name: str) -> str:
    """What differs between two tables of a name; empty where nothing does."""
    there = [(warehouse / "tables" / name / "_delta_log").is_dir() for warehouse in (one, other)]
    if not any(there):
        return ""
    if not all(there):
        return f"is in {one if there[0] else other} only"
    left, right = (_rows(warehouse, name) for warehouse in (one, other))
    if list(left.columns) != list(right.columns):
        return f"columns {sorted(set(left.columns) ^ set(right.columns))} are in one of the two only"
    both = pd.merge(_counted(left), _counted(right), how="outer", indicator=True)
    only = both[both["_merge"] != "both"]["_merge"].value_counts()
    if only["left_only"] or only["right_only"]:
        return f"{len(left):,} and {len(right):,} rows; {only['left_only']:,} and {only['right_only']:,} in one only"
    return ""


def _rows(warehouse: Path, name: str) -> pd.DataFrame:
    """All rows as text, without what is different in every run; artefacts without the hash in their names."""
    frame = consume.read_table(warehouse, name).to_pandas()
    frame = frame.drop(columns=[column for column in frame.columns if column in _OF_A_RUN])
    return frame.map(lambda value: _HASH.sub("", repr(value.tolist() if hasattr(value, "tolist") else value)))


def _counted(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.groupby(list(frame.columns), dropna=False, sort=False).size().rename("rows").reset_index()


if __name__ == "__main__":
    sys.exit(main())
