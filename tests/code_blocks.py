"""The code blocks of README and docs, each with where it stands and how it is to be tested."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from tests.night import ROOT

PAGES = ["README.md", *sorted(page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").rglob("*.md"))]
COMMANDS = ("make", "python", "spark-submit", "./spark-submit.sh", ".")
_LANGUAGES = {"python": "python", "yaml": "yaml", "bash": "shell", "sh": "shell", "text": "text"}
_MARKER = re.compile(r"<!-- (?:not run: \S.*|run by (?P<test>tests/\w+/test_\w+\.py)) -->")


@dataclass(frozen=True)
class Block:
    """One fenced or indented block.

    Attributes:
        page: Path from the root of the project.
        line: Of its first line of code.
        language: After the fence; "" for a bare fence, None where the block is indented.
        text: The code, without indentation.
        marker: The HTML comment right above it, or "".
    """

    page: str
    line: int
    language: str | None
    text: str
    marker: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def treatment(self) -> str:
        """python, yaml, shell, text, sample (of a file), marked; or "" where nothing tests it."""
        if self.marker:
            return "marked"
        if self.language is not None:
            return _LANGUAGES.get(self.language, "")
        if all(line.split()[0] in COMMANDS for line in self.commands):
            return "shell"
        return "sample" if self.page == "docs/your_data.md" else ""

    @property
    def commands(self) -> list[str]:
        """The lines of a shell block, continued ones in one piece."""
        return [line for line in self.text.replace("\\\n", " ").splitlines() if line.strip()]


def blocks_of(page: str) -> list[Block]:
    """Every block of a page, in its order."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found, at = [], 0
    while at < len(lines):
        if fence := re.match(r"\s*(```+|~~~+)\s*(\S*)", lines[at]):
            end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == fence[1])
            found.append(_block(page, lines, at, at + 1, end, fence[2]))
            at = end + 1
        elif re.match(r"(?: {4}|\t)\s*\S", lines[at]) and (at == 0 or not lines[at - 1].strip()):
            end = next((n for n in range(at, len(lines)) if re.match(r" {0,3}\S", lines[n])), len(lines))
            found.append(_block(page, lines, at, at, end, None))
            at = end
        else:
            at += 1
    return found


def _block(page: str, lines: list[str], top: int, first: int, end: int, language: str | None) -> Block:
    above = [line.strip() for line in lines[max(top - 2, 0) : top] if line.strip()]
    marker = above[-1] if above and _MARKER.fullmatch(above[-1]) else ""
    code = "\n".join(line.removeprefix("    ") if language is None else line for line in lines[first:end])
    return Block(page, first + 1, language, code.rstrip() + "\n", marker)


def file_that_runs(marker: str) -> str | None:
    """The test file that a marker names."""
    found = _MARKER.fullmatch(marker)
    return found["test"] if found else None


def words_of(command: str) -> list[str]:
    """A command as a shell takes it, without its comment."""
    return shlex.split(command, comments=True)
