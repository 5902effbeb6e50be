"""The pages keep their promises: links, names of files and functions, generated references, YAML that loads."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from benchmarks import job_pages
from precise_core import consume
from precise_core.reference import configuration as configuration_reference
from tests.code_blocks import blocks_of
from tests.night import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def names_in(file: Path) -> set[str]:
    """Functions, classes, methods and constants of a module."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\[[^\]]*\]\(([^)#]+)", text):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


def test_the_page_on_the_paper_names_code_that_exists() -> None:
    page = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
    references = re.findall(r"\[`([^`]+\.py)`\]\([^)]+\)((?:,?\s*`[A-Za-z_\.]+`)*)", page)
    assert len(references) > 20
    for file, functions in references:
        missing = set(re.findall(r"`([^`]+)`", functions)) - names_in(ROOT / file)
        assert not missing, (file, missing)


def test_the_heads_of_the_job_pages_are_current() -> None:
    pages = {file: file.read_text(encoding="utf-8") for file in job_pages.PAGES.glob("*.md")}
    heads = re.findall(r"<!-- head of (\w+) -->", "".join(pages.values()))
    assert sorted(heads) == job_pages.JOBS
    assert {file.name: job_pages.render(page) for file, page in pages.items()} == {
        file.name: page for file, page in pages.items()
    }


@pytest.mark.parametrize("job", job_pages.JOBS)
def test_the_page_of_a_job_names_the_units_of_its_row_balance(job: str) -> None:
    pages = "".join(file.read_text(encoding="utf-8") for file in job_pages.PAGES.glob("*.md"))
    own = pages.split(f"<!-- head of {job} -->")[1].split("<!-- head of")[0]
    source = (ROOT / "jobs" / f"{job}.py").read_text(encoding="utf-8")
    assert [unit for unit in re.findall(r'job\.balance\(\s*"([^"]+)"', source) if unit not in own] == []


def test_a_job_says_which_tables_it_reads_and_writes(night: Path) -> None:
    """Every table in the versions that a night's runs wrote down stands in the docstring of the job."""
    runs = consume.read_table(night, "runs").to_pylist()
    assert {run["job"] for run in runs} >= {"ingest", "recall", "evaluate"}
    for run in runs:
        told = importlib.import_module(f"jobs.{run['job']}").__doc__ or ""
        tables = {*dict(run["input_versions"]), *dict(run["output_versions"])}
        if run["job"] not in ("run_night", "build_report"):  # the one tells of its jobs, the other of every table
            assert {table for table in tables if not re.search(rf"\b{table}\b", told)} == set(), run["job"]


def test_the_configuration_reference_is_current_and_complete() -> None:
    assert configuration_reference.undescribed_keys() == []
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == configuration_reference.render()


def test_a_bad_night_names_tests_that_exist() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    parts = re.split(r"`(test_[a-z0-9_]+)\.py`", page)[1:]
    assert len(parts) > 30
    for file, text in zip(parts[::2], parts[1::2], strict=True):
        named = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
        assert named <= names_in(next((ROOT / "tests").rglob(f"{file}.py"))), (file, named)


def test_the_findings_name_recorded_figures_only() -> None:
    findings = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    pages = [ROOT / "docs" / "figures.md", *(ROOT / "docs" / "results").glob("*.md")]
    recorded = "".join(page.read_text(encoding="utf-8") for page in pages)
    figures = set(re.findall(r"(?<![\d.])0?(\.\d{3,4})(?!\d)", findings))
    assert len(figures) > 30
    assert {figure for figure in figures if figure not in recorded} == set()


def test_the_page_on_own_data_shows_the_file_the_tests_run() -> None:
    first = next(block for block in blocks_of("docs/your_data.md") if block.language == "yaml")
    assert first.text == (ROOT / "examples" / "your_data" / "mine.yaml").read_text(encoding="utf-8")
