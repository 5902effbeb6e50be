"""Which of two versions of a row is newer, where one of them has waited in a quarantine.

Ingest lets the file taken later win. A stored row does not say which file it is from; the table's older versions do: a
row that is stored as it was before the quarantined one's file was taken is older than that file.
"""

from __future__ import annotations

from collections import defaultdict
from functools import reduce

from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from precise_core.errors import HistoryGoneError
from precise_core.run.job import Job
from precise_core.sources.manifest import read_manifest
from precise_core.warehouse.spark_errors import gone_history
from precise_core.warehouse.upsert import KEPT, STATE, compare
from schemas import RUNS, Table
from schemas import columns as c


def file_sequences(job: Job, table: Table) -> dict[str, int]:
    """Path -> order of taking, of the files taken into ``table``."""
    records = [record for record in read_manifest(job.warehouse) if record[c.TABLE_NAME] == table.name]
    return {record[c.PATH]: record["sequence"] for record in records}


def outdated_keys(job: Job, table: Table, stored: DataFrame, corrections: DataFrame) -> DataFrame:
    """The keys under which something is stored that came after the quarantined row, or may have.

    Args:
        job: The run.
        table: The table.
        stored: Its rows.
        corrections: Key and source_file of quarantined rows under whose key another row is stored.
    """
    versions = _versions_before_files(job, table)
    files: dict[int | None, list[str]] = defaultdict(list)
    for row in corrections.select(c.SOURCE_FILE).distinct().collect():
        files[versions.get(row[c.SOURCE_FILE])].append(row[c.SOURCE_FILE])
    found = [corrections.select(*table.key).limit(0)]
    for version, paths in files.items():
        keys = corrections.where(F.col(c.SOURCE_FILE).isin(paths)).select(*table.key)
        found.append(keys if version is None else _changed_since(job, table, version, stored, keys))
    return reduce(DataFrame.unionByName, found)


def _versions_before_files(job: Job, table: Table) -> dict[str, int]:
    """Path -> the version of the table that its file was added to.

    Left out are files of a full reading or of the first night, which found no row to correct, and Delta and database
    tables, which hold old and new versions of a row side by side.
    """
    records, table_id = read_manifest(job.warehouse), job.warehouse.table_id(table)
    runs = job.warehouse.read_arrow(RUNS, job.warehouse.version(RUNS), [c.RUN_ID, "input_versions"]).to_pylist()
    found = {run[c.RUN_ID]: dict(run["input_versions"]).get(table.name) for run in runs}
    files = [one for one in records if one[c.TABLE_NAME] == table.name and one["table_id"] == table_id]
    versions = {one[c.PATH]: found.get(one[c.RUN_ID]) for one in files if one["size_bytes"]}
    return {path: version for path, version in versions.items() if version is not None}


def _changed_since(job: Job, table: Table, version: int, stored: DataFrame, keys: DataFrame) -> DataFrame:
    try:
        with gone_history(table, version):
            now = stored.join(keys, on=list(table.key), how="left_semi")
            compared = compare(job.warehouse.read(job.spark, table, version), now, table)
            found = compared.where(F.col(STATE) != KEPT).select(*table.key).persist(StorageLevel.DISK_ONLY)
            found.count()  # here, where a file that is gone is understood
        return found
    except HistoryGoneError as error:
        job.say(f"warning: {error}: rows that would correct a stored one since then stay in quarantine")
        return keys
