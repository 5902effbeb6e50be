"""User sequences of a whole table of events, read and written by the tasks themselves as Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from precise_core.config.tasks import ALL_TASK
from precise_core.sequences.build import SequenceInputs, of_whole_users
from precise_core.sequences.chunks import SequencePass
from precise_core.sequences.event_files import EventFiles
from precise_core.sequences.exchange import WholePart, pairs_of
from precise_core.warehouse.spark_errors import worker_errors
from precise_core.warehouse.task_files import TaskFile, TaskFiles, write_file
from schemas import USER_SEQUENCES
from schemas import columns as c

_REPORT = "files string, events bigint, beyond bigint"
_REPEATED = (f"{c.SCENES}.list.element",)


@dataclass(frozen=True)
class SequenceFiles:
    """Files that hold every sequence, and in pairs of an event and a task it belongs to: all ``events`` read, and those
    ``beyond`` the N of their task."""

    files: TaskFiles
    events: int
    beyond: int


def write_user_sequences(inputs: SequenceInputs, events: EventFiles, folder: str) -> SequenceFiles:
    """Write ``schemas.USER_SEQUENCES`` of all ``events`` as new files of the table in ``folder``.

    Raises:
        DataError: A file of events is damaged or gone.
    """
    config, filters = inputs.config, {ALL_TASK: None, **inputs.tasks}
    chunks = SequencePass({name: config.length_of(name) for name in filters})
    write = partial(_written, chunks, folder, config.buckets)
    reports = of_whole_users(events, filters, inputs.as_of, chunks, write, _REPORT, buckets=config.buckets)
    with worker_errors():
        found = reports.collect()
    files = [TaskFile(**file) for row in found for file in json.loads(row["files"])]
    total = {name: sum(row[name] for row in found) for name in ("events", "beyond")}
    return SequenceFiles(TaskFiles(folder, USER_SEQUENCES, files), **total)


def _written(chunks: SequencePass, folder: str, buckets: int, part: WholePart) -> Iterator[pa.RecordBatch]:
    """Write the sequences of a part's users; says which files these are, and where its events went."""
    files, beyond = [], part.cut
    for rows in part.portions:
        beyond += pairs_of(rows)
        for found in chunks.sequences(rows):
            beyond -= pc.sum(found.column(c.LENGTH)).as_py()
            partition = {c.TASK: found.column(c.TASK)[0].as_py(), c.BUCKET: part.part % buckets}
            content = pa.Table.from_batches([found]).drop_columns([c.TASK])
            files.append(asdict(write_file(folder, content, partition, dictionaries=_REPEATED)))
    report = {"files": [json.dumps(files)], "events": [part.events], "beyond": [beyond]}
    yield pa.RecordBatch.from_pydict(report)
