"""What lies in a warehouse: where, what beside the tables is in use, and how it is written and checked.

<warehouse>/tables/<table>/                a Delta table (precise_core/warehouse)
            checkpoints/<model_version>/   a checkpoint; latest-<key>.json names the one in use, for each task
            indexes/<index_version>/       an index of item vectors
            rankers/<ranker_version>/      a ranking model; latest.json names those in use, by system
            list_rankers/<ranker_version>/ a ranking model of lists; latest.json names the one in use
                         .training-*.tmp/  what a training of lists that is under way has finished
            catalogs/                      item catalogs, as executors read them
            erasures/                      who was erased, and the proofs
            readers/                       who reads tables now
            serving/                       what a server maps, made from the tables; the server removes what is old
            logs/                          of runs that failed
            sizes.json                     sizes that were chosen by the log
            rollback.json                  there while tables are on their way back

The folder of a checkpoint, an index or a ranking model is written whole or not at all, and lists its files in
SHA256SUMS.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from precise_core.errors import CheckpointError

CHECKPOINTS, INDEXES, RANKERS, CATALOGS = "checkpoints", "indexes", "rankers", "catalogs"
LIST_RANKERS = "list_rankers"
TABLES, ERASURES, READERS, LOGS = "tables", "erasures", "readers", "logs"
SERVING = "serving"
ROLLBACK_JOURNAL = "rollback.json"
SIZES = "sizes.json"
REPORT = "report.html"  # beside the warehouse
# What a run calls its products in `runs.artefacts` (`checkpoint:<task>`, `ranker:<system>`), and where they lie.
FOLDERS = {"checkpoint": CHECKPOINTS, "index": INDEXES, "ranker": RANKERS, "list_ranker": LIST_RANKERS}

MANIFEST_FILE = "manifest.json"
SUMS_FILE = "SHA256SUMS"
# Of a folder that a killed process has left: half-written, or on its way out.
LEFTOVERS = (".*.tmp", ".*.old")


def artefact_folder(warehouse: str | Path, key: str, version: str) -> Path:
    """The folder of something that a run calls ``key`` (`checkpoint:<task>`, `index:<task>`, `ranker:<system>`)."""
    return Path(warehouse) / FOLDERS[key.partition(":")[0]] / version


def artefacts_in_use(warehouse: str | Path) -> dict[str, str]:
    """`checkpoint:<key>`, `ranker:<system>` and `list_ranker:lists` -> version, of all that a pointer names."""
    in_use = {
        "checkpoint": checkpoints_in_use(Path(warehouse) / CHECKPOINTS),
        "ranker": rankers_in_use(warehouse),
        "list_ranker": rankers_in_use(warehouse, LIST_RANKERS),
    }
    return {f"{kind}:{key}": version for kind, versions in in_use.items() for key, version in versions.items()}


def checkpoint_pointer(checkpoints: str | Path, key: str) -> Path:
    """The file that names the checkpoint in use for ``key``: a task, or ``untrained``."""
    if not key.replace("_", "").isalnum():
        raise CheckpointError(f"task {key!r}: letters, digits and _ only")
    return Path(checkpoints) / f"latest-{key}.json"


def checkpoints_in_use(checkpoints: str | Path) -> dict[str, str]:
    """model_version by key, sorted by key."""
    files = {file.stem.removeprefix("latest-"): file for file in sorted(Path(checkpoints).glob("latest-*.json"))}
    return {key: str(json.loads(file.read_text(encoding="utf-8"))["model_version"]) for key, file in files.items()}


def checkpoint_manifest(checkpoints: str | Path, model_version: str) -> dict[str, Any]:
    """The manifest of a checkpoint, unverified; empty where its folder was removed."""
    file = Path(checkpoints) / model_version / MANIFEST_FILE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def ranker_pointer(warehouse: str | Path, folder: str = RANKERS) -> Path:
    """The file that names the ranking models in use: of impressions, or with ``LIST_RANKERS`` of lists."""
    return Path(warehouse) / folder / "latest.json"


def rankers_in_use(warehouse: str | Path, folder: str = RANKERS) -> dict[str, str]:
    """ranker_version by system, of lists under `lists`; empty where no training has had anything to learn from yet."""
    pointer = ranker_pointer(warehouse, folder)
    return dict(json.loads(pointer.read_text(encoding="utf-8"))) if pointer.is_file() else {}


def put_rankers_in_use(warehouse: str | Path, versions: Mapping[str, str], folder: str = RANKERS) -> None:
    """Make these ranker_versions, by system, the ones in use, in one step."""
    replace_file(ranker_pointer(warehouse, folder), json.dumps(dict(versions), indent=2))


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
    file, sums = folder / SUMS_FILE, {}
    if not file.is_file():
        raise CheckpointError(f"{folder}: no {SUMS_FILE}, so this is not a complete artefact; build it again")
    for line in file.read_text(encoding="utf-8").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or len(digest) != 64:
            raise CheckpointError(f"{file}: not a line of sha256sum: {line[:80]!r}")
        sums[name] = digest
    return sums


def replace_file(path: Path, content: str | bytes, *, mode: int = 0o666) -> None:
    """Write a small file in one step: a reader finds the old content or all of the new one, even after a crash.

    The folder is made, text is written as UTF-8, and ``mode`` holds within the umask.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".writing")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


@contextmanager
def atomic_folder(final_path: str | Path) -> Iterator[Path]:
    """A temporary sibling to fill; renamed to ``final_path`` when the block ends well, removed when it raises.

    A folder that is already there is replaced as a whole; it is untouched when the block raises.
    """
    final = Path(final_path)
    with draft_folder(final.parent, final.name) as draft:
        yield draft
        move_into_place(draft, final)


def write_model(
    out: Path, name: str, files: Mapping[str, bytes], about: Mapping[str, Any], about_file: str, version_key: str
) -> Path:
    """A folder `<name>-<hash of its content>` below ``out`` with the files and, as JSON, what is said about them.

    The version stands in ``about_file`` under ``version_key``; nothing is left behind where it fails.
    """
    content = b"".join(files[file] for file in sorted(files)) + json.dumps(about, sort_keys=True).encode()
    version = f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    with atomic_folder(out / version) as target:
        for file, data in files.items():
            (target / file).write_bytes(data)
        text = json.dumps({version_key: version, **about}, indent=2, sort_keys=True)
        (target / about_file).write_text(text + "\n", encoding="utf-8")
        write_sums(target)
    return out / version


@contextmanager
def draft_folder(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder to fill and to ``move_into_place`` in ``parent``; what is still there afterwards is removed."""
    parent.mkdir(parents=True, exist_ok=True)
    draft = parent / f".{name}.{uuid.uuid4().hex[:8]}.tmp"
    draft.mkdir()
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def move_into_place(draft: Path, final: Path) -> None:
    """A full folder cannot be renamed over another, so the old one steps aside and comes back on failure."""
    if not final.exists():
        draft.rename(final)
        return
    aside = draft.with_suffix(".old")
    final.rename(aside)
    try:
        draft.rename(final)
    except OSError:
        aside.rename(final)
        raise
    shutil.rmtree(aside)


def _file_names(root: Path) -> list[str]:
    paths = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return sorted(name for name in paths if name != SUMS_FILE)
