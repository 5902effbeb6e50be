"""Every code block of README and of each page is tested as it stands; a new one without a treatment fails here.

Python runs, page by page, where `build/demo/warehouse` is a night's warehouse; YAML is loaded; of a command the job,
its flags, its configuration and the target of make must be there. A marked block says why it is not run, or by which
test.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from precise_core import consume
from precise_core.config import load_config
from precise_core.config.yaml_text import read_yaml
from precise_core.settings import Settings
from tests.code_blocks import PAGES, Block, blocks_of, file_that_runs, words_of
from tests.night import ROOT, copy_of

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
MINIMAL = {"name": "x", "warehouse": "w", "as_of": "2024-01-10", "source": {"kind": "synthetic"}}


def treated(how: str) -> list[Block]:
    return [block for block in BLOCKS if block.treatment == how]


def test_every_block_is_treated() -> None:
    assert [str(block) for block in BLOCKS if not block.treatment] == []
    assert {"README.md", "docs/operations.md", "docs/jobs/intake.md", "docs/decisions/README.md"} < set(PAGES)
    assert len(treated("marked")) <= 5
    for block in treated("marked"):
        if named := file_that_runs(block.marker):
            assert Path(block.page).name in (ROOT / named).read_text(encoding="utf-8"), block
    for block in treated("text"):
        assert block.page == "docs/equations.md", f"{block}: text is for formulas; mark a drawing"


def test_samples_of_files_are_lines_of_the_files() -> None:
    there = {line for file in (ROOT / "examples" / "your_data").glob("*.csv") for line in file.read_text().splitlines()}
    assert treated("sample")
    for block in treated("sample"):
        assert set(block.commands) <= there, block


@pytest.mark.parametrize("block", treated("yaml"), ids=str)
def test_yaml_loads(block: Block, tmp_path: Path) -> None:
    missing = {key: value for key, value in MINIMAL.items() if key not in read_yaml(block.text)}
    file = tmp_path / "block.yaml"
    file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in missing.items()) + block.text, "utf-8")
    assert load_config(file, Settings).name


def check(words: list[str]) -> None:
    """A command names what is there."""
    if words[0] == ".":
        assert words[1:] == [".venv/bin/activate"]
    elif words[0] == "make":
        check_make(words)
    elif "-m" in words:
        check_module(*words[words.index("-m") + 1 :])
    else:
        place = next(n for n, word in enumerate(words) if word.startswith("jobs/"))
        check_job(words[place], words[place + 1 :])


def check_make(words: list[str]) -> None:
    """The target is there, and so is everything that it would start."""
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = done.stdout.replace("\\\n", " ").splitlines()
    for line in lines:
        if re.search(r"python (?:jobs/|-m (?:benchmarks|precise_core)\.)", line):
            check(words_of(line))


def check_module(name: str, *flags: str) -> None:
    source = Path(ROOT, *name.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    assert [flag for flag in flags if flag.startswith("--") and f'"{flag}"' not in source] == [], name


def check_job(script: str, flags: list[str]) -> None:
    """The job has these flags, and the configuration loads with what they set."""
    pairs = list(pairwise(flags))
    assert [flag for flag in flags if flag.startswith("--") and flag not in flags_of(Path(script).stem)] == [], script
    sets = [value for flag, value in pairs if flag == "--set"]
    sets += [f"source.data={json.dumps(value)}" for flag, value in pairs if flag == "--data"]
    settings = load_config(ROOT / dict(pairs)["--config"], Settings, sets)
    assert {value for flag, value in pairs if flag == "--task"} <= set(settings.task_names)


@cache
def flags_of(job: str) -> set[str]:
    """What the job's own help says."""
    said = StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit):
        importlib.import_module(f"jobs.{job}").main(["--help"])
    return set(re.findall(r"--[a-z-]+", said.getvalue()))


@pytest.mark.parametrize("block", treated("shell"), ids=str)
def test_commands_name_what_is_there(block: Block) -> None:
    for command in block.commands:
        check(words_of(command))


def test_make_help_lists_every_target_of_the_pages() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = {words_of(command)[1] for block in treated("shell") for command in block.commands if command[:5] == "make "}
    assert {f"make {name}" for name in named} <= set(re.findall(r"make \S+", listed))


def scores(frame: pd.DataFrame, ids: list[str]) -> np.ndarray:
    return frame.set_index("impression_id")["precise_score"].loc[ids].to_numpy(float)


def all_ways_agree(names: dict[str, Any], out: str) -> None:
    joined = names["joined"]
    ids = joined["impression_id"].tolist()
    expected = scores(joined, ids)
    assert 0 < np.isnan(expected).mean() < 1  # some impressions lie before the first vector
    others = {"training": names["training_rows"], "sql": names["by_sql"], "spark": names["in_spark"].toPandas()}
    others["polars"] = names["by_polars"].select("impression_id", "precise_score").to_pandas()
    for name, frame in others.items():
        np.testing.assert_allclose(scores(frame, ids), expected, rtol=1e-4, atol=1e-5, err_msg=name)
    assert "user_embeddings" in out
    with pytest.raises(SystemExit, match=r"all: universal-all-\w+ knows the world up to 2024-02-20"):
        names["require_fresh"]("all", pd.Timedelta(days=2))
    # The ranking model at the end of the page.
    assert re.search(r"^auc: [+-]0\.\d{4} \[[+-]\d\.\d{4}, [+-]\d\.\d{4}\], p = \d\.\d{3}$", out, re.MULTILINE)
    assert {"train", "validation", "test"} == set(names["features"]["split"])


def vectors_are_those_of_the_job(names: dict[str, Any], out: str) -> None:
    stored = consume.read_table(names["warehouse"], "user_embeddings").to_pandas()
    stored = stored[stored["model_version"] == names["published"].model_version].set_index("user_id")["embedding"]
    found = names["vectors"].toPandas().set_index("user_id")["embedding"]
    np.testing.assert_allclose(np.stack(found[stored.index]), np.stack(stored), atol=1e-6)
    assert "embedding" in out


def every_way_reads_all(names: dict[str, Any], out: str) -> None:
    by_duckdb, ours = (names[name].sort_values(["user_id", "task", "list", "rank"]) for name in ("frame", "everything"))
    assert len(ours) == names["table"].count() > 0 and "repeat" in out
    pd.testing.assert_series_equal(by_duckdb["item_id"], ours["item_id"], check_index=False)


RESULTS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "README.md": every_way_reads_all,
    "docs/join_our_features.md": all_ways_agree,
    "docs/jobs/vectors.md": vectors_are_those_of_the_job,
}


@pytest.fixture(scope="module")
def project(night: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo and the example of own data have run, as far as the pages go: both are the same small night."""
    root = tmp_path_factory.mktemp("project")
    warehouse = copy_of(night, root / "build" / "demo" / "warehouse")
    (root / "build" / "recipes").mkdir()
    (root / "build" / "recipes" / "warehouse").symlink_to(warehouse)
    return root


@pytest.mark.parametrize("page", dict.fromkeys(block.page for block in treated("python")))
def test_python_runs_as_it_stands(
    page: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)
    names: dict[str, Any] = {}
    for block in treated("python"):
        if block.page == page:
            exec(compile("\n" * (block.line - 1) + block.text, page, "exec"), names)
    check_result = RESULTS.get(page)
    if check_result:
        check_result(names, capsys.readouterr().out)


def test_every_page_with_a_result_has_python() -> None:
    assert set(RESULTS) <= {block.page for block in treated("python")}
