"""Send a checkpoint, an index or a catalog to every executor once."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession

_shipped: set[tuple[str, str]] = set()


def ship(spark: SparkSession, path: Path) -> str:
    """Make a file or folder available on every executor; returns the name to give to ``SparkFiles.get``.

    The name carries a hash of the content: Spark keeps what it was first given under a name for as long as the
    session lives, so that an index built anew under its old name would never arrive.
    """
    name = f"{path.stem}-{_digest(path)}{path.suffix if path.is_file() else ''}"
    key = (spark.sparkContext.applicationId, name)
    if key not in _shipped:
        # Spark serves the files from here for as long as the driver lives.
        staged = Path(tempfile.mkdtemp(prefix="precise-shipped-")) / name
        if path.is_dir():
            shutil.copytree(path, staged)
        else:
            shutil.copy2(path, staged)
        atexit.register(shutil.rmtree, staged.parent, ignore_errors=True)
        spark.sparkContext.addFile(str(staged), recursive=staged.is_dir())
        _shipped.add(key)
    return name


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
