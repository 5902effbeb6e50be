"""Notes in the commits of a table: what its content was made from, as atomic as the content itself.

A note holds for the version it was written with and for later versions of the same rows (compaction, VACUUM). After a
RESTORE the note of the version that came back holds again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deltalake import DeltaTable

NEW_LAYOUT = "NEW LAYOUT"  # of ours (layout.py): the same rows in other files
# Operations that leave the rows as they are.
SAME_ROWS = ("OPTIMIZE", "VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "UNSET TBLPROPERTIES", NEW_LAYOUT)
_NOTE = "note"


@dataclass(frozen=True)
class Note:
    """A note, the version it was written with, and whether commits without one have changed rows since."""

    content: Mapping[str, Any]
    version: int
    is_current: bool


def commit_text(run_id: str, note: Mapping[str, Any] | None) -> str:
    """User metadata of a commit: the run, and the note where there is one."""
    return run_id if note is None else json.dumps({"run_id": run_id, _NOTE: note}, sort_keys=True)


def read_note(path: str, version: int) -> Note | None:
    """The newest note at or before ``version`` of the table at ``path``; None where there is none."""
    # deltalake counts back from the version that is open: from an older one, it would count wrong.
    commits = {commit["version"]: commit for commit in DeltaTable(path).history()}
    at, is_current = version, True
    while at in commits:
        commit = commits[at]
        note = _note_of(commit)
        if note is not None:
            return Note(note, at, is_current)
        if commit["operation"] == "RESTORE":
            at = _restored(commit, at)
            continue
        is_current = is_current and commit["operation"] in SAME_ROWS
        at -= 1
    return None


def _note_of(commit: Mapping[str, Any]) -> Mapping[str, Any] | None:
    try:
        metadata = json.loads(commit.get("userMetadata") or "null")
    except ValueError:
        return None
    return metadata.get(_NOTE) if isinstance(metadata, dict) else None


def _restored(commit: Mapping[str, Any], at: int) -> int:
    """The version that a RESTORE brought back; a timestamp instead of a version is not followed."""
    version = (commit.get("operationParameters") or {}).get("version")
    return int(version) if version is not None and int(version) < at else -1
