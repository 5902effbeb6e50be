"""Delta tables as pyarrow datasets, without Spark.

deltalake's own `to_pyarrow_table` fails on partitioned tables with the pyarrow that petastorm holds us to, and has
been seen to abort the interpreter at exit; the list of live files it keeps is all that is needed.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
from deltalake import DeltaTable

from schemas import Table


def arrow_dataset(root: str, table: Table, snapshot: DeltaTable) -> ds.Dataset:
    """The live files of one pinned version.

    Args:
        root: The table's local folder, as it was given to ``snapshot``.
        table: The declaration; its Arrow schema is what is read.
        snapshot: The pinned version.
    """
    schema = table.arrow_schema()
    prefix = snapshot.table_uri.removeprefix("file://")
    # The root is percent-encoded in a file URI, the part below it is not.
    files = sorted(f"{root}/{uri.removeprefix(prefix).lstrip('/')}" for uri in snapshot.file_uris())
    partitions = snapshot.metadata().partition_columns
    partitioning = ds.partitioning(pa.schema([schema.field(name) for name in partitions]), flavor="hive")
    return ds.dataset(files, schema=schema, format="parquet", partitioning=partitioning)
