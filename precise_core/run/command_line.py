"""The flags of every command."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence


def environment_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The flags that every command has."""
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
    return parser


def night_parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The flags of a command that runs several jobs from raw files on."""
    parser = environment_parser(name, doc)
    parser.add_argument("--data", metavar="FOLDER", help="folder of the source's files; short for --set source.data=")
    return parser


def overrides_of(arguments: argparse.Namespace) -> list[str]:
    """The ``a.b=c`` of ``--set`` and, where the command has it, ``--data``."""
    data = getattr(arguments, "data", None)
    quoted = json.dumps(data, ensure_ascii=False)  # the name of a folder is no YAML
    return [*arguments.set, *([f"source.data={quoted}"] if data else [])]


def flags_of(arguments: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """The command line of a job that a command of several jobs starts."""
    verbose = ["--verbose"] if arguments.verbose else []
    return ["--config", arguments.config, *verbose, *(part for one in overrides for part in ("--set", one))]


def parse_arguments(
    name: str,
    doc: str | None,
    argv: Sequence[str] | None,
    flags: Callable[[argparse.ArgumentParser], None] | None,
) -> argparse.Namespace:
    parser = environment_parser(name, doc)
    if flags:
        flags(parser)
    return parser.parse_args(sys.argv[1:] if argv is None else argv)
