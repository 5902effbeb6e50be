"""Flags of a command line: those that every command has, and its own; without Spark."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any, NamedTuple


class Flag(NamedTuple):
    """What ``ArgumentParser.add_argument`` takes."""

    name: str
    options: dict[str, Any]


def flag(name: str, meaning: str, **options: Any) -> Flag:
    return Flag(name, {"help": meaning, **options})


def command_parser(name: str, doc: str | None, flags: Sequence[Flag] = ()) -> argparse.ArgumentParser:
    """The flags that every command has, and its own."""
    parser = argparse.ArgumentParser(
        prog=f"jobs/{name}.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="YAML file of the environment, e.g. conf/demo.yaml"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override one key of the configuration; repeatable"
    )
    parser.add_argument("--verbose", action="store_true", help="print Spark's own log and whole stacks as well")
    for own in flags:
        parser.add_argument(own.name, **own.options)
    return parser


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """The ``a.b=c`` of ``--set`` and, where the command has it, ``--data``."""
    data = getattr(arguments, "data", None)
    quoted = json.dumps(data, ensure_ascii=False)  # the name of a folder is no YAML
    return [*arguments.set, *([f"source.data={quoted}"] if data else [])]
