"""The files of `amazon_titles` from the archive they were published in (docs/data_sets.md).

    python -m benchmarks.amazon_titles_archive --archive proc.zip --domain beauty --to data/amazon-titles

The archive holds two pickled pandas tables. A pickle may run anything when it is read, so only what a table of numbers
and texts is made of is let in. Written with the pinned pyarrow, the Parquet files are the known ones, byte by byte.
"""

from __future__ import annotations

import argparse
import io
import pickle
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from precise_core.data_sets.amazon_titles import FILES
from precise_core.data_sets.known_files import known_content
from precise_core.errors import DataError, PreciseError
from precise_core.sources.config import AmazonTitlesSource
from schemas import columns as c

_EVENTS, _ITEMS = "user2item.pkl", "item2title.pkl"
_ALLOWED = {
    ("builtins", "slice"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.internals.managers", "BlockManager"),
}


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        module = module_name.replace("numpy._core", "numpy.core")  # NumPy 2 wrote them, 1.26 reads them
        if (module, global_name) not in _ALLOWED:
            raise DataError(f"{module_name}.{global_name} in a pickled table: only pandas and NumPy data are read")
        return super().find_class(module, global_name)


def tables_of(archive: Path) -> tuple[pa.Table, pa.Table]:
    """Events (user_id, item_id, event_ts, position) and items (item_id, title) of one domain.

    Raises:
        DataError: It is not such an archive, or a pickle in it holds anything but a table.
    """
    try:
        with zipfile.ZipFile(archive) as parts:
            users, items = (_table(parts.read(name)) for name in (_EVENTS, _ITEMS))
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{archive}: expected a zip archive with {_EVENTS} and {_ITEMS}: {error}") from error
    lengths_U = users["ItemID"].map(len)
    events = pa.table(
        {
            c.USER_ID: pa.array(np.repeat(users["UserID"].astype(str).to_numpy(), lengths_U)),
            c.ITEM_ID: pa.array([str(item) for of_user in users["ItemID"] for item in of_user]),
            c.EVENT_TS: pa.array([second * 10**6 for of_user in users["Timestamp"] for second in of_user]).cast(
                pa.timestamp("us", tz="UTC")
            ),
            "position": pa.array([place for length in lengths_U for place in range(length)], pa.int32()),
        }
    )
    return events, pa.table({c.ITEM_ID: pa.array(items["ItemID"].astype(str)), c.TITLE: pa.array(items["Title"])})


def write_files(archive: Path, domain: str, folder: Path) -> list[Path]:
    """Write ``<domain>.events.parquet`` and ``<domain>.items.parquet``.

    Raises:
        DataError: What the archive holds are not the known files of the domain; nothing is written then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        files = [Path(scratch) / f"{domain}.{part}.parquet" for part in ("events", "items")]
        for table, file in zip(tables_of(archive), files, strict=True):
            pq.write_table(table, file, compression="zstd", compression_level=19)
            _require_known(file, archive)
        return [file.replace(folder / file.name) for file in files]


def _require_known(file: Path, archive: Path) -> None:
    try:
        known_content(file, FILES[file.name])
    except DataError as error:
        raise DataError(f"{archive}: not the archive of this domain, or another pyarrow: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="proc.zip of one domain")
    parser.add_argument(
        "--domain", choices=get_args(AmazonTitlesSource.model_fields["domain"].annotation), required=True
    )
    parser.add_argument("--to", type=Path, required=True, help="folder for the two files")
    arguments = parser.parse_args(argv)
    try:
        files = write_files(arguments.archive, arguments.domain, arguments.to)
    except PreciseError as error:
        print(f"amazon_titles_archive: {error}")
        return 2
    print("wrote " + ", ".join(file.name for file in files))
    return 0


def _table(pickled: bytes) -> pd.DataFrame:
    table = _TableUnpickler(io.BytesIO(pickled)).load()
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"a {type(table).__name__} where a table is expected")
    return table


if __name__ == "__main__":
    raise SystemExit(main())
