"""Write the heads of docs/jobs/*.md, what a job does, reads and writes, and its flags: `make references`.

A head is between two marks and is made of the job's docstring and parser; what is below it is written by hand.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from schemas import TABLES

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "jobs"
JOBS = sorted(file.stem for file in (ROOT / "jobs").glob("*.py") if file.stem != "__init__")

_EVERYWHERE = {"--help", "--config", "--set", "--verbose"}
_HEAD = re.compile(r"<!-- head of (\w+) -->\n.*?<!-- end of the head -->\n", re.DOTALL)
_NAMES = sorted((table.name for table in TABLES), key=len, reverse=True)
# What is set as code: folders, flags, keys of the configuration, tables and columns; a table whose name is an English
# word only where the docstring lists what is read and written.
_CODE = re.compile(
    r"(?<![\w`/.-])(<\w+>(?:/[\w.<>-]*\w)?|--[a-z-]+|[a-z]+\.[a-z_]+(?:=\w+)?|[a-z]+(?:_[a-z]+)+)(?![\w`(])"
)
_TABLE = re.compile(rf"(?<![\w`])({'|'.join(_NAMES)})(?![\w`])")


def head(job: str) -> str:
    """The docstring, then the flags that not every job has."""
    module = importlib.import_module(f"jobs.{job}")
    flags = [
        f"`{' '.join(filter(None, (action.option_strings[0], action.metavar)))}` ({action.help})"
        for action in module.main.parser._actions
        if action.option_strings and not _EVERYWHERE & set(action.option_strings)
    ]
    paragraphs = [_CODE.sub(r"`\1`", part) for part in (module.__doc__ or "").strip().split("\n\n")]
    text = "\n\n".join(_TABLE.sub(r"`\1`", part) if part.startswith("Reads") else part for part in paragraphs)
    own = f"**Flags** beside [those of every job](README.md#flags): {'; '.join(flags)}\n" if flags else ""
    return f"<!-- head of {job} -->\n\n{text}\n\n{own}\n".rstrip("\n") + "\n\n<!-- end of the head -->\n"


def render(page: str) -> str:
    """The page with the heads as they should be."""
    return _HEAD.sub(lambda found: head(found[1]), page)


def main() -> None:
    for file in sorted(PAGES.glob("*.md")):
        file.write_text(render(file.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote the heads of {len(JOBS)} jobs")


if __name__ == "__main__":
    main()
