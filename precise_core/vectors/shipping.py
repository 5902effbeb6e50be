"""Send a checkpoint, an index or a catalog to every executor once."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
import zipfile
from pathlib import Path

from pyspark import SparkFiles
from pyspark.sql import SparkSession

_shipped: set[tuple[str, str]] = set()


def ship(spark: SparkSession, path: Path) -> str:
    """Make a file or folder available on every executor; returns the name to give to ``shipped``.

    It is sent as one archive, since Spark sends folders in local mode only. The name has a hash of the content: Spark
    keeps the first file of a name for as long as the session lives, so that an index built anew under its old name
    would never arrive.
    """
    name = f"{path.stem}-{_digest(path)}.zip"
    key = (spark.sparkContext.applicationId, name)
    if key not in _shipped:
        # Spark serves the archive from here for as long as the driver lives.
        staged = Path(tempfile.mkdtemp(prefix="precise-shipped-"))
        atexit.register(shutil.rmtree, staged, ignore_errors=True)
        with zipfile.ZipFile(staged / name, "w", zipfile.ZIP_STORED) as archive:
            for file in _files(path):
                archive.write(file, file.relative_to(path if path.is_dir() else path.parent))
        spark.sparkContext.addFile(str(staged / name))
        _shipped.add(key)
    return name


def shipped(name: str) -> Path:
    """In a worker: the folder with what ``ship`` sent, unpacked by the first worker of the executor."""
    archive = Path(SparkFiles.get(name))
    folder = archive.with_suffix("")
    if not folder.is_dir():
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=archive.parent))
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another worker was faster
            shutil.rmtree(scratch)
    return folder


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
