"""Which code made an output: the package version and a hash of its source files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import metadata, resources
from importlib.resources.abc import Traversable

_PACKAGES = ("schemas", "validation", "precise_core", "jobs")


@cache
def code_version() -> str:
    """`<version>+<12 hex digits>`; any change of a source file of ours changes it.

    Read through importlib.resources, so that code shipped as a zip (spark-submit --py-files) has the same version.
    """
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for name, file in sorted(_sources(resources.files(package), package)):
            digest.update(name.encode())
            digest.update(file.read_bytes())
    try:
        version = metadata.version("precise")
    except metadata.PackageNotFoundError:  # an executor that only has the zip
        version = "0"
    return f"{version}+{digest.hexdigest()[:12]}"


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        name = f"{prefix}/{entry.name}"
        if entry.is_dir():
            yield from _sources(entry, name)
        elif entry.name.endswith(".py"):
            yield name, entry
