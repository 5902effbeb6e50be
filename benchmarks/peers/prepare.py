"""Leave-one-out files for the peer benchmarks: `python -m benchmarks.peers.prepare SOURCE DATA`.

SOURCE is a text file (plain or .zst) with one user a line: the user's id, then its items, oldest first, separated by
spaces. DATA receives train.parquet (user, item, position), validation.parquet and test.parquet (user, item), all
int64: the last item of a user is tested, the one before it validated, the rest trained on. Users and items are
numbered from 0 by first occurrence in the file. Needs nothing but pandas and pyarrow.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

# One item each to train on, to validate and to test.
_SHORTEST_SEQUENCE = 3


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args(argv)
    events = number_events(read_sequences(arguments.source))
    arguments.data.mkdir(parents=True, exist_ok=True)
    for name, part in leave_one_out(events).items():
        part.to_parquet(arguments.data / f"{name}.parquet", index=False)
        print(f"{name}: {len(part):,} events, {part['user'].nunique():,} users, {part['item'].nunique():,} items")


def read_sequences(source: Path) -> Iterator[tuple[str, list[str]]]:
    """(user id, item ids oldest first), in the order of the file."""
    compression = "zstd" if source.suffix == ".zst" else None
    with pa.input_stream(str(source), compression=compression) as stream:
        text = stream.read().decode("utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        user, *items = line.split()
        if len(items) < _SHORTEST_SEQUENCE:
            raise ValueError(
                f"{source.name}, line {number}: {len(items)} items, leave-one-out needs at least {_SHORTEST_SEQUENCE}"
            )
        yield user, items


def number_events(sequences: Iterator[tuple[str, list[str]]]) -> pd.DataFrame:
    """One row per event: user, item and position (0 = the user's oldest)."""
    rows = [(user, item, position) for user, items in sequences for position, item in enumerate(items)]
    events = pd.DataFrame(rows, columns=["user", "item", "position"])
    for column in ("user", "item"):
        events[column] = pd.factorize(events[column])[0].astype("int64")
    return events


def leave_one_out(events: pd.DataFrame) -> dict[str, pd.DataFrame]:
    from_the_end = events.groupby("user").cumcount(ascending=False)
    return {
        "train": events[from_the_end >= 2],
        "validation": events.loc[from_the_end == 1, ["user", "item"]],
        "test": events.loc[from_the_end == 0, ["user", "item"]],
    }


if __name__ == "__main__":
    main()
