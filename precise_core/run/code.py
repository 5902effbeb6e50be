"""The project's own code: the version that made an output, and all of it as one zip for executors.

`python -m precise_core.run.code build/precise.zip` writes the zip and prints its path.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

from precise_core.store.local import replace_file

_PACKAGES = ("schemas", "validation", "precise_core", "jobs")


@cache
def code_version() -> str:
    """`<version>+<12 hex digits>`; any change of a source file changes it.

    Read through importlib.resources, so that code shipped as a zip (spark-submit --py-files) has the same version.
    """
    digest = hashlib.sha256()
    for name, content in _sources(".py"):
        digest.update(name.encode())
        digest.update(content)
    try:
        version = metadata.version("precise")
    except metadata.PackageNotFoundError:  # an executor that only has the zip
        version = "0"
    return f"{version}+{digest.hexdigest()[:12]}"


def write_zip(target: Path) -> Path:
    """Write the zip and return it; the same sources give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in _sources(".py", ".j2", ".css"):
            archive.writestr(zipfile.ZipInfo(name), source)
    replace_file(target, content.getvalue())  # two submits at once must not read half a zip
    return target


def _sources(*endings: str) -> Iterator[tuple[str, bytes]]:
    for package in _PACKAGES:
        files = {name: file for name, file in _below(resources.files(package), package) if name.endswith(endings)}
        yield from ((name, files[name].read_bytes()) for name in sorted(files))


def _below(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _below(entry, name)
        else:
            yield name, entry


if __name__ == "__main__":
    print(write_zip(Path(sys.argv[1])))
