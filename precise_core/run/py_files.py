"""Our packages as one zip for executors: `python -m precise_core.run.py_files build/precise.zip`."""

import sys
import zipfile
from pathlib import Path

_PACKAGES = ("schemas", "validation", "precise_core", "jobs")
_ENDINGS = {".py", ".j2", ".css"}


def write_zip(target: Path) -> Path:
    """Write the zip and return it; the same sources give the same bytes."""
    root = Path(__file__).resolve().parents[2]
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in _PACKAGES:
            for file in sorted((root / package).rglob("*")):
                if file.suffix in _ENDINGS:
                    archive.writestr(zipfile.ZipInfo(file.relative_to(root).as_posix()), file.read_bytes())
    partial.replace(target)  # two submits at once must not read half a zip
    return target


if __name__ == "__main__":
    print(write_zip(Path(sys.argv[1])))
