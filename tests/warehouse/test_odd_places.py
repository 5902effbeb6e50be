"""Names in any script under any locale, and folders with a blank, as cron and desktops have them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from precise_core.errors import ConfigError
from precise_core.warehouse.tables import Warehouse
from tests.night import ROOT, arrow_table

BIN = Path(sys.executable).parent
EXAMPLE = ROOT / "examples" / "your_data"
CRON = {"PATH": "/usr/bin:/bin"}


def checkout(folder: Path) -> Path:
    """What a job needs of the project, somewhere else, with this environment."""
    for name in ("jobs", "precise_core", "schemas", "validation", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "spark-submit.sh", folder)
    (folder / ".venv").symlink_to(BIN.parent)
    return folder


def configuration(folder: Path) -> Path:
    """The example, with its log in two files of other scripts."""
    config = yaml.safe_load((EXAMPLE / "mine.yaml").read_text(encoding="utf-8"))
    lines = (EXAMPLE / "clicks.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    log = folder / "日志 log"
    log.mkdir(parents=True)
    (log / "klicks_ä.csv").write_text("".join(lines[:300]), encoding="utf-8")
    (log / "点击😀.csv").write_text("".join([lines[0], *lines[300:]]), encoding="utf-8")
    config["warehouse"] = str(folder / "wäre house" / "it's 100% ours #1")
    config["source"]["events"]["path"] = str(log / "*.csv")
    config["source"]["items"]["path"] = str(EXAMPLE / "catalog.csv")
    file = folder / "möin.yaml"
    file.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return file


def start(root: Path, environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=root, env=environment, capture_output=True, encoding="utf-8", errors="replace", timeout=600,
        check=False,
    )  # fmt: skip


@pytest.mark.faults  # minutes
def test_a_job_under_cron_in_a_checkout_with_a_blank(tmp_path: Path) -> None:
    root, config = checkout(tmp_path / "my check out"), configuration(tmp_path)
    done = start(root, CRON, "./spark-submit.sh", "jobs/ingest.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    warehouse = Path(yaml.safe_load(config.read_text(encoding="utf-8"))["warehouse"])
    files = arrow_table(warehouse, "source_files").to_pydict()
    rows = dict(zip((Path(path).name for path in files["path"]), files["rows"], strict=True))
    assert rows["klicks_ä.csv"] == 299 and rows["点击😀.csv"] > 0  # 300 lines, of which one is the header
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["my check out", "möin.yaml", "wäre house", "日志 log"]
    )


@pytest.mark.faults
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX", "LANG": "C"}, {"LC_CTYPE": "C"}])
def test_python_alone_reads_every_name_under_any_locale(tmp_path: Path, locale: dict[str, str]) -> None:
    config = configuration(tmp_path)
    environment = CRON | locale | {"PYTHONPATH": str(ROOT)}
    done = start(ROOT, environment, sys.executable, "jobs/ingest.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.faults
@pytest.mark.parametrize("flag", [(), ("--set", "warehouse={}/größer")])
def test_plain_spark_submit_without_a_locale_is_refused_before_anything_is_written(
    tmp_path: Path, flag: tuple[str, ...]
) -> None:
    config = configuration(tmp_path).rename(tmp_path / "mine.yaml")
    environment = CRON | {"PATH": f"{BIN}:/usr/bin:/bin", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    flags = [part.format(tmp_path) for part in flag]
    done = start(ROOT, environment, str(BIN / "spark-submit"), "jobs/ingest.py", "--config", str(config), *flags)
    assert done.returncode == 2, done.stdout + done.stderr
    # Java hands an argument on with `?` for what it cannot read.
    said = "its path must not have '?'" if flag else "start with ./spark-submit.sh, or set LC_ALL=C.UTF-8 before"
    assert said in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir() if path.name not in ("mine.yaml", "日志 log")) == (
        [] if flag else ["wäre house"]  # with the run that failed written down, and no table
    )
    assert not list(tmp_path.glob("*/*/tables/events"))


@pytest.mark.faults  # minutes
def test_a_whole_night_below_a_folder_with_a_blank_and_an_umlaut(tmp_path: Path) -> None:
    root, config = checkout(tmp_path / "my check out"), configuration(tmp_path)
    done = start(root, CRON, "./spark-submit.sh", "jobs/run_night.py", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert next(tmp_path.glob("wäre house/report.html")).is_file()


@pytest.mark.parametrize(
    "name", ["team [eu]", "a%20b", "back\\slash", "a^b", "a|b", "a`b", "a*b", "a?b", "{a}", "tab\there"]
)
def test_a_warehouse_whose_name_delta_cannot_write_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="warehouse .*: its path must not have"):
        Warehouse(str(tmp_path / name / "warehouse"))
    assert not any(tmp_path.iterdir())
