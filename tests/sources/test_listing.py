"""Which files a path means: literal names first, hidden parts nowhere, links followed, each real file once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.errors import DataError
from precise_core.sources.listing import list_files, look_up


def tree(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x", encoding="utf-8")


def names(pattern: Path | str, below: Path) -> list[str]:
    return [file.relative_to(below).as_posix() for file in look_up(str(pattern)).files]


HIDDEN = (
    "log/1.csv",
    "log/date=2024-03-01/2.csv",
    "log/date=2024-03-01/_temporary/0/part.csv",
    "log/date=2024-03-01/.ipynb_checkpoints/2-checkpoint.csv",
    "log/date=2024-03-01/.2.csv.crc",
    "log/_SUCCESS",
    "log/_committed_1",
    "log/_delta_log/0.json",
    "log/.hidden.csv",
)


@pytest.mark.parametrize("pattern", ["log", "log/", "log/*", "log/**", "log/**/*.csv", "*", "*/*", "l[o]g"])
def test_hidden_parts_are_left_out_at_any_depth_and_of_wildcards(tmp_path: Path, pattern: str) -> None:
    tree(tmp_path, *HIDDEN)
    assert names(f"{tmp_path}/{pattern}", tmp_path) == ["log/1.csv", "log/date=2024-03-01/2.csv"]


def test_a_hidden_part_that_is_written_out_is_meant(tmp_path: Path) -> None:
    tree(tmp_path, "_out/1.csv", "_out/_temporary/2.csv", ".cache/3.csv", "_more/4.csv")
    assert names(tmp_path / "_out", tmp_path) == ["_out/1.csv"]
    assert names(tmp_path / ".cache" / "*.csv", tmp_path) == [".cache/3.csv"]
    assert names(tmp_path / "_*" / "*.csv", tmp_path) == ["_more/4.csv", "_out/1.csv"]
    assert names(tmp_path / "*" / "*.csv", tmp_path) == []


@pytest.mark.parametrize("name", ["export[12].csv", "a?b.csv", "log{1}.csv", "all*.csv", "x[!a].csv", "**"])
def test_a_name_that_is_there_is_literal_in_every_part_of_a_path(tmp_path: Path, name: str) -> None:
    tree(tmp_path, f"team [eu]/{name}", "team [eu]/export1.csv", "team [eu]/aXb.csv", "team e/export2.csv")
    folder = tmp_path / "team [eu]"
    assert names(folder / name, folder) == [name]
    assert names(folder, folder) == names(folder / "*", folder) == sorted([name, "export1.csv", "aXb.csv"])
    assert names(tmp_path / "team [eu]" / "export?.csv", tmp_path) == ["team [eu]/export1.csv"]


def test_what_a_literal_name_hides_is_said(tmp_path: Path) -> None:
    tree(tmp_path, "*.csv", "1.csv", "2.csv")  # what a shell makes of `cp today *.csv` in an empty folder
    listing = look_up(str(tmp_path / "*.csv"))
    assert [file.name for file in listing.files] == ["*.csv"]
    assert "2 more that match it as a wildcard are not" in listing.notes[0]


def test_links_are_followed_and_each_real_file_is_there_once(tmp_path: Path) -> None:
    tree(tmp_path, "log/1.csv", "elsewhere/deep/2.csv", "elsewhere/_temporary/3.csv")
    log = tmp_path / "log"
    (log / "old").symlink_to("../elsewhere")
    (log / "latest.csv").symlink_to("1.csv")
    (log / "round").symlink_to("..")
    (log / "again").symlink_to("../elsewhere/deep")
    for pattern in (log, log / "*", log / "**", log / "**" / "*.csv", tmp_path, f"{log}/../log/*"):
        assert {file.resolve().name for file in look_up(str(pattern)).files} == {"1.csv", "2.csv"}
        assert len(look_up(str(pattern)).files) == 2
    assert names(log / "latest.csv", log) == ["latest.csv"]
    # As the configuration reaches it: no message names a folder that nobody wrote.
    assert names(log / "old" / "*" / "*.csv", log) == ["old/deep/2.csv"]


@pytest.mark.parametrize("pattern", ["log", "log/*.csv", "log/2.csv"])
def test_a_link_to_nothing_is_said(tmp_path: Path, pattern: str) -> None:
    tree(tmp_path, "log/1.csv")
    (tmp_path / "log" / "2.csv").symlink_to("gone.csv")
    said = f"{tmp_path}/log/2.csv: a link to nothing; it is left out tonight"
    assert look_up(f"{tmp_path}/{pattern}").notes == [said]


def test_relative_paths_stay_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "log/b.csv", "log/a.csv")
    monkeypatch.chdir(tmp_path)
    assert [str(file) for file in list_files("log/*.csv")] == ["log/a.csv", "log/b.csv"]
    for pattern in ("", "nothing", "nothing/*.csv", "log/a.csv/x"):
        with pytest.raises(DataError, match="no such file, and no file matches it"):
            list_files(pattern)


NAME = st.text(st.sampled_from("ab_.[]{}?*!1é中😀 %+#'\\"), min_size=1, max_size=6).filter(
    lambda name: name not in (".", "..", "**")
)


@settings(max_examples=60, deadline=None)
@given(paths=st.sets(st.lists(NAME, min_size=1, max_size=3).map(tuple), min_size=1, max_size=6))
def test_a_folder_stands_for_what_walking_it_finds(
    tmp_path_factory: pytest.TempPathFactory, paths: set[tuple[str, ...]]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    for path in paths:
        try:
            tree(folder, "/".join(path))
        except OSError:
            continue  # a name is a folder of one path and the file of another
    expected = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] not in "_."]
        expected += [Path(root) / name for name in files if name[0] not in "_."]
    assert look_up(str(folder)).files == sorted(expected)
    for file in expected:
        assert look_up(str(file)).files == [file]
