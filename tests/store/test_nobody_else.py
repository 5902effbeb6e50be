"""Only the store makes a ``Path`` of a warehouse: of `s3a://bucket/x` that would be a local folder `s3a:`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Where it is known to be a local folder.
ALLOWED = {
    "precise_core/warehouse/locks.py": "the locks of the kernel, behind `is_remote`",
}
# How a warehouse is called where it is passed on.
NAMES = {"warehouse", "root"}


def paths_of_a_warehouse(text: str) -> Iterator[str]:
    """Calls of ``Path`` with something that is called as a warehouse is."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Path" and node.args:
            called = {part.id if isinstance(part, ast.Name) else part.attr for part in _names(node.args[0])}
            if called & NAMES:
                yield ast.unparse(node)


def _names(node: ast.AST) -> Iterator[ast.Name | ast.Attribute]:
    return (part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute))


def test_nobody_else_makes_a_path_of_a_warehouse() -> None:
    files = sorted([*(ROOT / "precise_core").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])
    found = {}
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        calls = list(paths_of_a_warehouse(file.read_text(encoding="utf-8")))
        if calls and not name.startswith("precise_core/store/"):
            found[name] = calls
    assert len(files) > 200 and found.keys() == ALLOWED.keys(), found


def test_it_would_be_seen() -> None:
    seen = set(paths_of_a_warehouse("Path(settings.warehouse) / 'x'\nPath(str(job.root))\nPath(file)\nPath('root')"))
    assert seen == {"Path(settings.warehouse)", "Path(str(job.root))"}
