"""What `user_sequences` was built from, noted in the commit that wrote it, and what tonight must rebuild."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from precise_core.config import Config, config_hash
from precise_core.config.tasks import ALL_TASK, TaskConfig
from precise_core.sequences.config import SequencesConfig
from precise_core.warehouse.notes import Note

_FORMAT = 1  # of the stored rows; raising it makes every table be rebuilt


class TableVersion(Config):
    """One version of one table; one made anew at the same place has another ``table_id``."""

    table_id: str
    version: int


class TaskState(Config):
    """What decides a task's rows: a hash of its filter, and N."""

    filter_hash: str
    max_length: int


class SequenceState(Config):
    """Everything that decides the content of `user_sequences`."""

    as_of: datetime
    events: TableVersion
    vocabulary: TableVersion
    tasks: dict[str, TaskState]
    buckets: int
    format: int = _FORMAT


@dataclass(frozen=True, kw_only=True)
class SequencePlan:
    """What tonight does.

    Args:
        full: Why everything is rebuilt; empty where it is not.
        rebuilt: Tasks built from all events, and why.
        kept: Tasks whose stored rows are continued.
        trimmed: Those of them with a smaller N than before.
        dropped: Tasks that are not declared any more.
    """

    full: str = ""
    rebuilt: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    trimmed: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


def as_of_sequences(note: Note | None, default: datetime) -> datetime:
    """The ``as_of`` of the night that wrote `user_sequences` with this ``note``; ``default`` where there is none."""
    return SequenceState.model_validate(note.content).as_of if note else default


def task_states(tasks: Mapping[str, TaskConfig], config: SequencesConfig) -> dict[str, TaskState]:
    """The state of `all` and of every declared task."""
    hashes = {ALL_TASK: ""} | {name: config_hash(task) for name, task in tasks.items()}
    return {name: TaskState(filter_hash=of, max_length=config.length_of(name)) for name, of in hashes.items()}


def plan_sequences(last: SequenceState, now: SequenceState) -> SequencePlan:
    """Which tasks are continued from the stored rows and which are built anew."""
    if full := _why_full(last, now):
        return SequencePlan(full=full)
    rebuilt = {name: why for name, task in now.tasks.items() if (why := _why_rebuilt(last.tasks.get(name), task))}
    kept = tuple(name for name in now.tasks if name not in rebuilt)
    return SequencePlan(
        full="no task is as it was" if not kept else "",
        rebuilt=rebuilt,
        kept=kept,
        trimmed=tuple(name for name in kept if now.tasks[name].max_length < last.tasks[name].max_length),
        dropped=tuple(name for name in last.tasks if name not in now.tasks),
    )


def _why_full(last: SequenceState, now: SequenceState) -> str:
    if last.format != now.format:
        return f"the rows have format {last.format}, now it is {now.format}"
    if last.buckets != now.buckets:
        return f"sequences.buckets was {last.buckets}, now it is {now.buckets}"
    if now.as_of < last.as_of:
        return f"as_of {now.as_of} is before the last one, {last.as_of}"
    for name, old, new in (("events", last.events, now.events), ("item_vocabulary", last.vocabulary, now.vocabulary)):
        if old.table_id != new.table_id:
            return f"table {name} is another one than last time"
        if new.version < old.version:
            return f"table {name} is at version {new.version}, last time it was at {old.version}"
    return ""


def _why_rebuilt(last: TaskState | None, now: TaskState) -> str:
    if last is None:
        return "it is new"
    if last.filter_hash != now.filter_hash:
        return "its filter has changed"
    if now.max_length > last.max_length:
        return f"its length was {last.max_length}, now it is {now.max_length}"
    return ""
