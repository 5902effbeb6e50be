"""The example of docs/add_an_encoder.md, done as the page says: one new file, and the contract tests run for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.night import ROOT

PAGE = (ROOT / "docs" / "add_an_encoder.md").read_text(encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository's packages, so that the new file does not land in the checkout."""
    for package in ("precise_core", "schemas", "tests", "jobs", "validation"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def contract_tests(folder: Path) -> str:
    """Run the page's command, which names the example's kind."""
    (command,) = re.findall(r"`python -m (pytest tests/models/test_encoders\.py -k \w+)`", PAGE)
    arguments = [sys.executable, "-m", *command.split(), "-p", "no:cacheprovider"]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False).stdout


def test_the_example_passes_the_contract_of_all_encoders(copy: Path) -> None:
    (file,) = re.findall(r"`(precise_core/models/encoders/\w+\.py)`: ", PAGE)
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (copy / file).write_text(source, encoding="utf-8")
    out = contract_tests(copy)
    passed = re.search(r"^(\d+) passed, \d+ deselected", out, re.MULTILINE)
    assert passed and int(passed[1]) >= 14, out
