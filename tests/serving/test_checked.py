"""What one worker of a server has verified the others need not, as long as nothing of it changes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from precise_core.errors import CheckpointError
from precise_core.serving import checked as module
from precise_core.serving.checked import Checked
from precise_core.store.sums import verify_sums, write_sums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "vectors-1"
    made.mkdir()
    (made / "vectors.npy").write_bytes(b"sound")
    write_sums(made)
    return made


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were compared with their sums."""
    found: list[Path] = []

    def verified(folder: Path) -> None:
        found.append(folder)
        verify_sums(folder)

    monkeypatch.setattr(module, "verify_sums", verified)
    return found


def test_workers_that_start_together_read_a_folder_once(folder: Path, notes: Path, read: list[Path]) -> None:
    workers = [threading.Thread(target=Checked(notes).require_sound, args=(folder,)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert read == [folder]


def test_a_worker_that_is_alone_reads_every_time(folder: Path, read: list[Path]) -> None:
    for _ in range(2):
        Checked().require_sound(folder)
    assert read == [folder, folder]


def test_a_file_that_changed_since_is_found_out_by_the_next_worker(folder: Path, notes: Path) -> None:
    Checked(notes).require_sound(folder)
    (folder / "vectors.npy").write_bytes(b"hound")
    with pytest.raises(CheckpointError, match=r"changed on disk.*vectors\.npy"):
        Checked(notes).require_sound(folder)
    with Checked(notes).alone([folder]) as is_done:
        assert not is_done


def test_a_file_that_changes_while_it_is_verified_is_not_taken_for_sound(
    folder: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verified(folder: Path) -> None:
        verify_sums(folder)
        (folder / "vectors.npy").write_bytes(b"hound")

    monkeypatch.setattr(module, "verify_sums", verified)
    Checked(notes).require_sound(folder)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="changed on disk"):
        Checked(notes).require_sound(folder)


def test_without_a_place_for_notes_every_worker_verifies(folder: Path, notes: Path, read: list[Path]) -> None:
    notes.rmdir()
    for _ in range(2):
        Checked(notes).require_sound(folder)
    Checked(notes).add(folder)
    with Checked(notes).alone([folder]) as is_done:
        assert not is_done
    assert read == [folder, folder]


def test_a_list_of_sums_that_is_damaged_is_no_list_of_sums(folder: Path) -> None:
    (folder / "SHA256SUMS").write_bytes(b"\xff" * 80)
    with pytest.raises(CheckpointError, match="not a line of sha256sum"):
        Checked().require_sound(folder)


def test_what_was_damaged_is_not_noted(folder: Path, notes: Path) -> None:
    (folder / "vectors.npy").unlink()
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"missing.*vectors\.npy"):
            Checked(notes).require_sound(folder)


def test_who_waits_is_told_what_was_made_meanwhile(folder: Path, notes: Path) -> None:
    told: list[bool] = []

    def second() -> None:
        with Checked(notes).alone([folder]) as is_done:
            told.append(is_done)

    with Checked(notes).alone([folder]) as is_done:
        assert not is_done
        waiting = threading.Thread(target=second)
        waiting.start()
        Checked(notes).add(folder)
        assert not told
    waiting.join()
    assert told == [True]
