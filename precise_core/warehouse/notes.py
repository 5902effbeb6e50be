"""Notes in the commits of a table, as atomic as its content: what that was made from, and what it is, in a few numbers.

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
_NOTE, _FINGERPRINT = "note", "fingerprint"


@dataclass(frozen=True)
class Note:
    """A note, the version it was written with, and whether commits without one have changed rows since."""

    content: Mapping[str, Any]
    version: int
    is_current: bool


def commit_text(
    run_id: str, note: Mapping[str, Any] | None = None, fingerprint: Mapping[str, Any] | None = None
) -> str:
    """User metadata of a commit: the run, and the note and the fingerprint of what it wrote where there are any."""
    more = {name: value for name, value in ((_NOTE, note), (_FINGERPRINT, fingerprint)) if value is not None}
    return json.dumps({"run_id": run_id, **more}, sort_keys=True) if more else run_id


def read_note(path: str, version: int) -> Note | None:
    """The newest note at or before ``version`` of the table at ``path``; None where there is none."""
    return _newest(path, version, _NOTE)


def read_fingerprint(path: str, version: int) -> Mapping[str, Any] | None:
    """What the last commit that changed rows at or before ``version`` says of what it wrote; None where it is mute."""
    found = _newest(path, version, _FINGERPRINT)
    return found.content if found and found.is_current else None


def _newest(path: str, version: int, name: str) -> Note | None:
    # deltalake counts back from the version that is open: from an older one, it would count wrong.
    commits = {commit["version"]: commit for commit in DeltaTable(path).history()}
    at, is_current = version, True
    while at in commits:
        commit = commits[at]
        content = _content(commit, name)
        if content is not None:
            return Note(content, at, is_current)
        if commit["operation"] == "RESTORE":
            at = _restored(commit, at)
            continue
        is_current = is_current and commit["operation"] in SAME_ROWS
        at -= 1
    return None


def _content(commit: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    try:
        metadata = json.loads(commit.get("userMetadata") or "null")
    except ValueError:
        return None
    return metadata.get(name) if isinstance(metadata, dict) else None


def _restored(commit: Mapping[str, Any], at: int) -> int:
    """The version that a RESTORE brought back; a timestamp instead of a version is not followed."""
    version = (commit.get("operationParameters") or {}).get("version")
    return int(version) if version is not None and int(version) < at else -1
