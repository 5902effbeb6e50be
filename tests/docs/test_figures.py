"""What `benchmarks.record` appends is what `make figures` shows, and a goal that was missed is shown as missed."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures
from benchmarks.record import FIELDS, machine, record

ROOT = Path(__file__).resolve().parents[2]


def measure(file: Path, name: str, value: float, **changes: Any) -> dict[str, Any]:
    fields = {"unit": "users/s", "goal": None, "meets": None, "data": "synthetic", "seed": 17, "command": "make x"}
    return record(file, name, value, **(fields | changes))


def test_a_figure_is_one_json_line_with_date_and_machine(tmp_path: Path) -> None:
    file = tmp_path / "new" / "speed.jsonl"
    written = measure(file, "encoding", 1234.5)
    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == written
    assert tuple(written) == FIELDS
    assert date.fromisoformat(written["date"])
    assert written["machine"] == machine()
    cores, memory, model = machine().split(", ", 2)
    assert int(cores.split()[0]) >= 1 and int(memory.split()[0]) >= 1 and model


@pytest.mark.parametrize(("goal", "meets"), [(10, None), (None, True), (None, False)])
def test_a_goal_needs_a_verdict_and_a_verdict_a_goal(tmp_path: Path, goal: Any, meets: Any) -> None:
    with pytest.raises(ValueError, match=r"figure 'encoding': goal .* give both or neither"):
        measure(tmp_path / "speed.jsonl", "encoding", 1.0, goal=goal, meets=meets)
    assert not (tmp_path / "speed.jsonl").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_is_refused_and_leaves_the_file_as_it_was(tmp_path: Path, value: float) -> None:
    file = tmp_path / "speed.jsonl"
    measure(file, "encoding", 1.0)
    before = file.read_bytes()
    with pytest.raises(ValueError):
        measure(file, "encoding", value)
    assert file.read_bytes() == before


def test_the_page_shows_every_figure_its_goal_and_the_verdict(tmp_path: Path) -> None:
    file = tmp_path / "speed.jsonl"
    measure(file, "fast | steady", 1234567, goal="at least 1,260", meets=True)
    measure(file, "slow", 0.012345, unit="", goal=0.5, meets=False, seed=None, command="make y")
    measure(file, "free", 12345.6, unit="s")
    page = figures.render({"speed": figures.read_figures(file)})
    today = figures.read_figures(file)[0]["date"]
    assert "\n1 of 2 goals are met.\n" in page
    assert "\n## speed\n" in page
    assert f"| fast \\| steady | 1,234,567 users/s | at least 1,260 | yes | synthetic | 17 | {today} | 1 |" in page
    assert f"| slow | 0.01235 | 0.5 | **no** | synthetic |  | {today} | 2 |" in page
    assert f"| free | 12,346 s |  |  | synthetic | 17 | {today} | 1 |" in page
    assert f"1. `make x` on {machine()}\n2. `make y` on {machine()}\n" in page


def test_the_last_measurement_of_a_name_stands_in_its_first_place(tmp_path: Path) -> None:
    file = tmp_path / "speed.jsonl"
    for name, value in (("a", 1), ("b", 2), ("a", 3)):
        measure(file, name, value)
    assert [(f["name"], f["value"]) for f in figures.read_figures(file)] == [("a", 3), ("b", 2)]


@pytest.mark.parametrize("line", ["{", "[]", '{"name": "a"}'])
def test_a_line_that_is_no_figure_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "speed.jsonl"
    measure(file, "a", 1)
    file.write_text(file.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"speed\.jsonl, line 2: "):
        figures.read_figures(file)


def test_the_page_in_the_repository_is_what_the_results_say() -> None:
    sections = {file.stem: figures.read_figures(file) for file in sorted(figures.RESULTS.glob("*.jsonl"))}
    if sections:
        assert figures.TARGET.read_text(encoding="utf-8") == figures.render(sections), "run `make figures`"


def test_recording_needs_no_engine() -> None:
    code = "import sys, benchmarks.figures; print([m for m in ('pyspark', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
