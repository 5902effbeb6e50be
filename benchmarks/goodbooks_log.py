"""goodbooks-10k as a log: `python -m benchmarks.goodbooks_log --data FOLDER --to build/goodbooks`.

The ratings have no times and are sorted by book. A clock is made up: the rows are shuffled by a seed and happen one
after another over a hundred days. What is measured on it says nothing of trends; it says what lists are worth where
neither time nor repeats tell anything.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

SEED = 17
START = pd.Timestamp("2024-01-01", tz="UTC")
DAYS = 100


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.goodbooks_log", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with ratings.csv.zip and books.csv.zip")
    parser.add_argument("--to", type=Path, required=True, help="folder for events.parquet and items.parquet")
    arguments = parser.parse_args(argv)
    arguments.to.mkdir(parents=True, exist_ok=True)
    events(_table(arguments.data / "ratings.csv.zip")).to_parquet(arguments.to / "events.parquet", index=False)
    books = _table(arguments.data / "books.csv.zip")
    books["title"] = books["original_title"].fillna(books["title"])
    books["description"] = books["authors"]
    books[["id", "title", "description"]].to_parquet(arguments.to / "items.parquet", index=False)


def events(ratings: pd.DataFrame) -> pd.DataFrame:
    """A user's ratings of a book once each, at made-up times."""
    rows = ratings.drop_duplicates(["user_id", "book_id"]).sample(frac=1, random_state=SEED)
    microseconds = np.arange(len(rows)) * (DAYS * 86_400_000_000 // len(rows))
    rows["rated_at"] = START + pd.to_timedelta(microseconds, unit="us")
    return rows[["user_id", "book_id", "rated_at"]]


def _table(archive: Path) -> pd.DataFrame:
    with zipfile.ZipFile(archive) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".csv") and "__MACOSX" not in name)
        return pd.read_csv(packed.open(name))


if __name__ == "__main__":
    main()
