"""In which order the Amazon sets are (docs/data_sets.md).

Amazon sequences are compared user by user with the files of another publisher (S3-Rec, aHuiWang/CIKM2020-S3Rec), who
made them from the same reviews, with users and items named and arranged otherwise.

    python -m benchmarks.event_order --data <folder> --s3rec <folder> --titles <folder>
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.figures import RESULTS
from benchmarks.record import record
from precise_core.data_sets.amazon_sequences import input_files, lines_of
from precise_core.data_sets.amazon_titles import input_files as titles_of
from precise_core.data_sets.known_files import content_of, plain_or_compressed
from precise_core.sources.config import AmazonSequencesSource, AmazonTitlesSource

S3REC = {"Beauty": "Beauty.txt", "Sports": "Sports_and_Outdoors.txt", "Toys": "Toys_and_Games.txt"}

Rows = Sequence[Sequence[str]]  # a user's items, oldest first


def share_ascending(rows: Rows) -> float:
    """Share of the rows whose items ascend by id."""
    return float(np.mean([all(a < b for a, b in pairwise(row)) for row in rows]))


def share_in_common_order(ours: Rows, theirs: Rows) -> float:
    """Share of our users who have their items in the same order there, whatever users and items are called.

    Users and items are recognised by who has what, order aside: an item by its users, these by their items, and so on.
    """
    (rows, names), (other_rows, other_names) = _colours(ours), _colours(theirs)
    there = {(colour, tuple(other_names[item] for item in row)) for colour, row in zip(other_rows, theirs, strict=True)}
    here = ((colour, tuple(names[item] for item in row)) for colour, row in zip(rows, ours, strict=True))
    return float(np.mean([row in there for row in here]))


def _colours(rows: Rows, rounds: int = 6) -> tuple[list[int], dict[str, int]]:
    """A number for every row and every item that depends on nothing but who has what."""
    users_of: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        for item in row:
            users_of[item].append(place)
    of_item = dict.fromkeys(users_of, 0)
    of_row = [0] * len(rows)
    for _ in range(rounds):
        of_row = [hash(tuple(sorted(of_item[item] for item in row))) for row in rows]
        of_item = {item: hash(tuple(sorted(of_row[place] for place in users))) for item, users in users_of.items()}
    return of_row, of_item


def neighbours(events: pd.DataFrame) -> dict[str, float]:
    """Of steps from one event of a user to the next: shares within a day, and of those and the others ascending."""
    ordered = events.sort_values(["user_id", "position"])
    is_step = ordered.user_id.eq(ordered.user_id.shift())
    is_same_day = ordered.event_ts.eq(ordered.event_ts.shift())[is_step]
    number = ordered.item_id.astype("int64")
    ascends = number.gt(number.shift())[is_step]
    return {
        "neighbours of one day": float(is_same_day.mean()),
        "neighbours of one day that ascend by item id": float(ascends[is_same_day].mean()),
        "neighbours of different days that ascend by item id": float(ascends[~is_same_day].mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder of amazon-5core-ordered (docs/data_sets.md)")
    parser.add_argument("--s3rec", required=True, help="folder of S3-Rec's files, each named s3rec_<name>.txt[.zst]")
    parser.add_argument("--titles", required=True, help="folder of amazon-titles (docs/data_sets.md)")
    arguments = parser.parse_args()
    for domain, name in S3REC.items():
        source = AmazonSequencesSource(kind="amazon_sequences", data=arguments.data, domain=domain)
        rows = [line.split()[1:] for line in lines_of(input_files(source)[0])]
        file = plain_or_compressed(Path(arguments.s3rec), f"s3rec_{name}")
        largest_last = float(np.mean([row[-1] == max(row) for row in rows]))
        _record(f"Amazon {domain}, rows that end with their largest item id", largest_last, f"{len(rows):,} users")
        theirs = [line.split()[1:] for line in content_of(file).decode().splitlines()]
        _record(f"Amazon {domain}, rows that ascend by item id", share_ascending(rows), f"{len(rows):,} users")
        _record(f"Amazon {domain}, rows in S3-Rec's order", share_in_common_order(rows, theirs), f"{len(rows):,} users")
        repeats = float(np.mean([len(set(row)) < len(row) for row in rows]))
        _record(f"Amazon {domain}, users with an item twice", repeats, f"{len(rows):,} users")
    for domain in ("beauty", "toys", "books_sample"):
        events = pd.read_parquet(
            titles_of(AmazonTitlesSource(kind="amazon_titles", data=arguments.titles, domain=domain))[0]
        )
        for name, share in neighbours(events).items():
            _record(f"Amazon titles {domain}, {name}", share, f"{len(events):,} events")


def _record(name: str, share: float, data: str) -> None:
    command = "python -m benchmarks.event_order --data <folder> --s3rec <folder> --titles <folder>"
    record(RESULTS / "event_order.jsonl", name, share, "", None, None, data, None, command)
    print(f"{name}: {share:.4f}")


if __name__ == "__main__":
    main()
