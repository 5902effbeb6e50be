"""Folders that hold an artefact (a checkpoint, an index): written whole or not at all, and checked before use."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from precise_core.errors import CheckpointError

SUMS_FILE = "SHA256SUMS"


def file_sum(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_sums(folder: str | Path) -> None:
    """Write ``SHA256SUMS`` over every file below ``folder``, in the format that ``sha256sum -c`` reads."""
    root = Path(folder)
    lines = [f"{file_sum(root / name)}  {name}\n" for name in _file_names(root)]
    (root / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def verify_sums(folder: str | Path) -> None:
    """Compare every file below ``folder`` with its ``SHA256SUMS``.

    Raises:
        CheckpointError: The folder or its sums are missing, or a file is missing, added or changed.
    """
    root = Path(folder)
    if not (root / SUMS_FILE).is_file():
        raise CheckpointError(f"{root}: no {SUMS_FILE}, so this is not a complete artefact; build it again")
    expected = _read_sums(root / SUMS_FILE)
    found = set(_file_names(root))
    for problem, names in (("missing", expected.keys() - found), ("not listed", found - expected.keys())):
        if names:
            raise CheckpointError(f"{root}: {problem} in the folder by its {SUMS_FILE}: {', '.join(sorted(names))}")
    changed = [name for name, digest in sorted(expected.items()) if file_sum(root / name) != digest]
    if changed:
        raise CheckpointError(f"{root}: changed on disk since it was written: {', '.join(changed)}; build it again")


def replace_file(path: Path, text: str) -> None:
    """Make ``text`` the content of a small file, in one step: a reader finds what was there before, or all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".writing")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


@contextmanager
def atomic_folder(final_path: str | Path) -> Iterator[Path]:
    """A temporary sibling to fill; renamed to ``final_path`` when the block ends well, removed when it raises.

    A folder that is already there is replaced as a whole; it is untouched when the block raises.
    """
    final = Path(final_path)
    final.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex[:8]
    temporary = final.with_name(f".{final.name}.{token}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        _swap(temporary, final, final.with_name(f".{final.name}.{token}.old"))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(new: Path, final: Path, aside: Path) -> None:
    """A full folder cannot be renamed over another, so the old one steps aside and comes back on failure."""
    if not final.exists():
        new.rename(final)
        return
    final.rename(aside)
    try:
        new.rename(final)
    except OSError:
        aside.rename(final)
        raise
    shutil.rmtree(aside)


def _file_names(root: Path) -> list[str]:
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in paths if name != SUMS_FILE)


def _read_sums(path: Path) -> dict[str, str]:
    sums = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            raise CheckpointError(f"{path}: not a line of sha256sum: {line[:80]!r}")
        sums[name] = digest
    return sums
