"""A folder appears whole or not at all, and a folder that was changed is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from precise_core.errors import CheckpointError
from precise_core.store.local import atomic_folder
from precise_core.store.sums import verify_sums, write_sums


def fill(folder: Path, text: str = "first") -> None:
    with atomic_folder(folder) as target:
        (target / "part").mkdir()
        (target / "part" / "a.txt").write_text(text)
        write_sums(target)


def test_a_folder_that_was_written_verifies_here_and_with_sha256sum(tmp_path: Path) -> None:
    fill(tmp_path / "artefact")
    verify_sums(tmp_path / "artefact")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "artefact", check=True)


def test_a_failure_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    fill(tmp_path / "artefact")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "artefact") as target:
        (target / "half").write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]
    verify_sums(tmp_path / "artefact")


def test_a_second_write_replaces_the_whole_folder(tmp_path: Path) -> None:
    fill(tmp_path / "artefact")
    (tmp_path / "artefact" / "stray").write_text("x")
    fill(tmp_path / "artefact", "second")
    verify_sums(tmp_path / "artefact")
    assert (tmp_path / "artefact" / "part" / "a.txt").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_changed_missing_and_added_files_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "artefact")
    file = tmp_path / "artefact" / "part" / "a.txt"
    file.write_text("other")
    with pytest.raises(CheckpointError, match=r"changed on disk.*part/a\.txt"):
        verify_sums(tmp_path / "artefact")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"missing.*part/a\.txt"):
        verify_sums(tmp_path / "artefact")
    file.write_text("first")
    (tmp_path / "artefact" / "more").write_text("x")
    with pytest.raises(CheckpointError, match=r"not listed.*more"):
        verify_sums(tmp_path / "artefact")
    with pytest.raises(CheckpointError, match="no SHA256SUMS"):
        verify_sums(tmp_path)
