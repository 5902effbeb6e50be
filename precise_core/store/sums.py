"""The list of sums that makes a folder of files whole: ``SHA256SUMS``, in the format that ``sha256sum -c`` reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from precise_core.errors import CheckpointError

SUMS_FILE = "SHA256SUMS"


def file_sum(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_sum(folder: Path) -> str:
    """SHA-256 of a checkpoint's list of sums: identifies its content without reading the weights."""
    if not (folder / SUMS_FILE).is_file():
        raise CheckpointError(f"checkpoint {folder}: no such folder, or no {SUMS_FILE} in it")
    return file_sum(folder / SUMS_FILE)


def write_sums(folder: str | Path) -> None:
    """Write ``SHA256SUMS`` over every file below ``folder``."""
    root = Path(folder)
    lines = [f"{file_sum(root / name)}  {name}\n" for name in _file_names(root)]
    (root / SUMS_FILE).write_text("".join(lines), encoding="utf-8")


def verify_sums(folder: str | Path) -> None:
    """Compare every file below ``folder`` with its ``SHA256SUMS``.

    Raises:
        CheckpointError: The folder or its sums are missing, or a file is missing, added or changed.
    """
    root = Path(folder)
    expected = read_sums(root)
    found = set(_file_names(root))
    for problem, names in (("missing", expected.keys() - found), ("not listed", found - expected.keys())):
        if names:
            raise CheckpointError(f"{root}: {problem} in the folder by its {SUMS_FILE}: {', '.join(sorted(names))}")
    changed = [name for name, digest in sorted(expected.items()) if file_sum(root / name) != digest]
    if changed:
        raise CheckpointError(f"{root}: changed on disk since it was written: {', '.join(changed)}; build it again")


def read_sums(folder: Path) -> dict[str, str]:
    """SHA-256 by file name, as the folder's ``SHA256SUMS`` lists them.

    Raises:
        CheckpointError: There is no such file, or it is not one of sha256sum.
    """
    require_listed(folder)
    file = folder / SUMS_FILE
    return sums_in(file.read_text(encoding="utf-8", errors="replace"), str(file))  # a damaged one is none of sha256sum


def sums_in(text: str, place: str) -> dict[str, str]:
    """SHA-256 by file name, of the text of a list at ``place``; CheckpointError where it is not one of sha256sum."""
    sums = {}
    for line in text.splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            raise CheckpointError(f"{place}: not a line of sha256sum: {line[:80]!r}")
        sums[name] = digest
    return sums


def require_listed(folder: Path) -> None:
    """Refuse a folder without a list of sums."""
    if not (folder / SUMS_FILE).is_file():
        raise incomplete(str(folder))


def incomplete(folder: str) -> CheckpointError:
    return CheckpointError(f"{folder}: no {SUMS_FILE}, so this is not a complete artefact; build it again")


def _file_names(root: Path) -> list[str]:
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in paths if name != SUMS_FILE)
