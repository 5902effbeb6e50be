"""What was run, when, where and on what: kept with figures, and shown above them."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from precise_core.command_line import overrides_of
from precise_core.config import load_config
from precise_core.experiments.machine import machine
from precise_core.run.code import code_version
from precise_core.settings import Settings


def about_run(module: str, arguments: argparse.Namespace, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Of a run of a module with a configuration; ``flags``: the module's own."""
    settings = load_config(arguments.config, Settings, overrides_of(arguments))
    # Places of this machine are of no use to others.
    sets = [re.sub("=/.*", "=FOLDER", key) for key in overrides_of(arguments) if not key.startswith("warehouse=")]
    said = ["--config", str(arguments.config), *flags, *(part for key in sets for part in ("--set", key))]
    return {
        "name": settings.name,
        "command": shlex.join(["python", "-m", module, *said]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "seed": settings.seed,
        "code_version": code_version(),
    }


def head(run: Mapping[str, Any], level: str) -> list[str]:
    """The title of a run's section and what ``about_run`` says of it; ``level`` as `##`."""
    measured = f"load {run['load']:.1f} at the end, seed {run['seed']}, code {run['code_version']}"
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in run.get("seconds", {}).items())
    lines = ["", f"{level} {run['name']}", "", f"- command: `{run['command']}`"]
    lines.append(f"- {run['date']}, {run['machine']}, {measured}")
    return [*lines, *(f"- {line}" for line in (run.get("note"), spent) if line), ""]
