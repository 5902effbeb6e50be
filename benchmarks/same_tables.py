"""Compare two warehouses table by table: `python -m benchmarks.same_tables <warehouse> <other warehouse>`.

For a change of code that must change no row: run the same night with either code, then this. Says for every table how
many rows are in one of the two only, over the columns that both have; exit code 1 where anything differs. Times of
writing and run ids are left out, and the hashes in the names of checkpoints and indexes.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from deltalake import DeltaTable

from schemas import RUNS, TABLES, VALIDATION_RESULTS

# Different in every run of the same code: times of writing, and what identifies a table or a version of one.
_OF_A_RUN = {
    "run_id", "rejected_at", "ingested_at", "taken_at", "embedded_at", "published_at", "valid_from", "seconds",
    "checked_at", "table_id", "table_versions", "modified_ns",
}  # fmt: skip
_HASH = re.compile(r"-[0-9a-f]{6,}")  # in names of checkpoints, indexes and ranking models
_BATCH = 10_000
_HISTORY = (RUNS, VALIDATION_RESULTS)  # of the runs, not of the data


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("warehouses", nargs=2, type=Path, metavar="WAREHOUSE")
    one, other = parser.parse_args(argv).warehouses
    names = [table.name for table in TABLES if table not in _HISTORY]
    names = [name for name in names if _is_there(one, name) or _is_there(other, name)]
    found = {name: difference(one, other, name) for name in names}
    for name, what in found.items():
        print(f"{name}: {what or 'the same rows'}")
    return int(any(found.values()))


def difference(one: Path, other: Path, name: str) -> str:
    """What differs between two tables of a name; empty where nothing does."""
    if not (_is_there(one, name) and _is_there(other, name)):
        return f"is in {one if _is_there(one, name) else other} only"
    left, right = (_files(warehouse / "tables" / name) for warehouse in (one, other))
    columns = sorted(_columns(left) & _columns(right))
    added = sorted(_columns(left) ^ _columns(right))
    said = [f"columns {added} are in one of the two only"] if added else []
    in_folders = {name for _, values in (*left, *right) for name in values} & {*columns}  # where they are text
    of_left, of_right = _counted(left, columns, in_folders), _counted(right, columns, in_folders)
    only = [(of_left - of_right).total(), (of_right - of_left).total()]
    if any(only):
        rows = f"{of_left.total():,} and {of_right.total():,} rows"
        said.append(f"{rows}; {only[0]:,} and {only[1]:,} in one only")
    elif added:
        said.append(f"the other columns have the same {of_left.total():,} rows")
    return "; ".join(said)


def _is_there(warehouse: Path, name: str) -> bool:
    return (warehouse / "tables" / name / "_delta_log").is_dir()


def _files(table: Path) -> list[tuple[Path, dict[str, str]]]:
    """The files of the newest version, whatever the code declares today, and the values of their partition."""
    files = (Path(uri) for uri in DeltaTable(str(table)).file_uris())
    return [(file, dict(part.split("=", 1) for part in file.relative_to(table).parts[:-1])) for file in files]


def _columns(files: list[tuple[Path, dict[str, str]]]) -> set[str]:
    return {name for file, values in files for name in (*pq.read_schema(file).names, *values)} - _OF_A_RUN


def _counted(
    files: list[tuple[Path, dict[str, str]]], columns: Sequence[str], in_folders: Collection[str]
) -> Counter[bytes]:
    """How often each row is there, by a digest of its text, artefacts without the hash in their names."""
    found: Counter[bytes] = Counter()
    for file, values in files:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH):
            frame = batch.to_pandas().assign(**values).reindex(columns=columns)
            frame = frame.assign(**{name: frame[name].map(str) for name in in_folders})
            cells = frame.map(lambda value: repr(value.tolist() if hasattr(value, "tolist") else value))
            texts = (_HASH.sub("", "\x1f".join(row)) for row in cells.itertuples(index=False, name=None))
            found.update(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return found


if __name__ == "__main__":
    sys.exit(main())
