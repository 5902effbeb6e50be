"""Count the rooms that one event walks through, from its file to `ranking_features`: `python -m benchmarks.walk`.

Five jobs are run on a small night (`ingest`, `build_sequences`, `embed_users`, `publish_models`,
`build_ranking_features`) while their calls are recorded. A reader goes the way of the calls: into a function of
another file is a stop, back to the caller is a stop, and each place that calls a function is walked once, however
often it is called. A stop in another room than the one before it is a room change; one in a room that was left
already is a way back. A reader who reads each file once, when the job first comes to it, changes rooms less often:
the last column. Rooms are the folders of `precise_core`, `jobs` and `validation`; declarations (`schemas`, `config`,
`settings`, `errors`) and the machinery before a job's body are no stops. What executors run is not seen.

`--root` measures another checkout, `--stops` prints the walk.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

JOBS = ("ingest", "build_sequences", "embed_users", "publish_models", "build_ranking_features")
# What the five jobs need of the others.
NIGHT = (
    "ingest", "tokenize_items", "embed_tokens", "build_sequences", "build_windows", "train_universal", "train_targeted",
    "embed_items", "embed_users", "build_index", "publish_models",
)  # fmt: skip
_DECLARATIONS = ("schemas", "config", "settings.py", "errors.py", "command.py", "command_line.py")
_EVENTS = 400


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="another checkout")
    parser.add_argument("--stops", action="store_true", help="print the walk")
    parser.add_argument("--record", nargs=2, help=argparse.SUPPRESS)  # a file, and the command line of a job as JSON
    arguments = parser.parse_args(argv)
    if arguments.record:
        _record(Path(arguments.record[0]), arguments.root.resolve(), json.loads(arguments.record[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        walks = _walks(arguments.root.resolve(), Path(folder))
    total = [stop for walk in walks.values() for stop in walk]
    print(f"{'job':24} stops files changes back  changes, each file read once")
    for name, walk in walks.items():
        changes, back = changes_of([_room(stop) for stop in walk])
        print(f"{name:24} {len(walk):5} {len(set(walk)):5} {changes:7} {back:4}  {_read_once(walk)}")
    sums = [sum(column) for column in zip(*((len(walk), _read_once(walk)) for walk in walks.values()), strict=True)]
    print(f"{'together':24} {sums[0]:5} {len(set(total)):5} {'':12}  {sums[1]}")
    print("rooms:", ", ".join(sorted({_room(stop) for stop in total})))
    if arguments.stops:
        for name, walk in walks.items():
            print(f"\n{name}: " + " -> ".join(walk))


def _read_once(walk: Sequence[str]) -> int:
    """Room changes of a reader who reads each file of a job once, in the order in which the job comes to it."""
    return changes_of([_room(stop) for stop in dict.fromkeys(walk)])[0]


def changes_of(rooms: Sequence[str]) -> tuple[int, int]:
    """How often the room changes along the way, and how often into one that was left already."""
    seen, changes, back = set(rooms[:1]), 0, 0
    for before, after in pairwise(rooms):
        if before != after:
            changes, back = changes + 1, back + (after in seen)
            seen.add(after)
    return changes, back


def _walks(root: Path, folder: Path) -> dict[str, list[str]]:
    """The stops of each of the five jobs, in a night on a warehouse of its own."""
    config = folder / "mine.yaml"
    _write_world(folder, config)
    flags = ["--config", str(config)]
    walks: dict[str, list[str]] = {}
    for name in (*NIGHT, "build_ranking_features"):
        walked = folder / f"{name}.json"
        command = [sys.executable, __file__, "--root", str(root), "--record", str(walked), json.dumps([name, *flags])]
        done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, text=True,
                              capture_output=True, check=False)  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        if name in JOBS:
            walks[name] = json.loads(walked.read_text(encoding="utf-8"))
    return walks


def _record(walked: Path, root: Path, command: list[str]) -> None:
    """Run a job in this process and write its stops down."""
    sys.path.insert(0, str(root))
    job = importlib.import_module(f"jobs.{command[0]}")
    stops: list[str] = []
    walked_calls: set[tuple[Any, Any, int]] = set()
    entered: list[bool] = []  # of every frame of ours: whether it was a stop
    start = f"jobs/{command[0]}.py"

    def file_of(frame: FrameType) -> str:
        name = frame.f_code.co_filename
        if not name.startswith(str(root)) or frame.f_code.co_name.startswith("<"):
            return ""
        file = name[len(str(root)) + 1 :]
        parts = Path(file).parts
        is_ours = parts[0] in ("jobs", "validation", "precise_core")
        return "" if not is_ours or set(parts) & set(_DECLARATIONS) else file

    def caller_of(frame: FrameType) -> FrameType | None:
        back = frame.f_back
        while back is not None and not file_of(back):
            back = back.f_back
        return back

    def watch(frame: FrameType, event: str, _argument: Any) -> None:
        if event not in ("call", "return"):
            return
        file = file_of(frame)
        if not file:
            return
        if event == "call":
            caller = caller_of(frame)
            here = file_of(caller) if caller is not None else ""
            is_begun = bool(stops) or file == start
            key = (caller.f_code if caller else None, frame.f_code, caller.f_lineno if caller else 0)
            is_new = is_begun and key not in walked_calls and (here != file) and (not stops or here in stops[-1:])
            walked_calls.add(key)
            if is_new:
                stops.append(file)
            entered.append(is_new)
        elif entered and entered.pop() and stops[-1] == file and (caller := caller_of(frame)) is not None:
            stops.append(file_of(caller))

    sys.setprofile(watch)
    try:
        code = job.main(command[1:])
    finally:
        sys.setprofile(None)
    if code:
        raise SystemExit(code)
    walked.write_text(json.dumps([stop for at, stop in enumerate(stops) if at == 0 or stop != stops[at - 1]]))


def _room(file: str) -> str:
    parts = Path(file).parts
    if parts[0] != "precise_core":
        return parts[0]
    return parts[1] if len(parts) > 2 else "ground"


def _write_world(folder: Path, config: Path) -> None:
    """A small log of two scenes, its catalog, its impressions, and the configuration that reads them."""
    users, items = 40, 30
    events = ["user_id,item_id,scene,action,time"]
    impressions = ["impression_id,user_id,item_id,scene,time,label"]
    for number in range(_EVENTS):
        user, item, day = number % users, (number * 7 + number // users) % items, number // 30 + 1
        scene = "home" if item % 2 else "shop"
        events.append(f"u{user},i{item},{scene},click,2024-01-{day:02d}T{number % 24:02d}:{number % 60:02d}:00Z")
        if number % 4 == 0:
            at = f"2024-01-20T{number % 24:02d}:{number % 60:02d}:30Z"
            impressions.append(f"m{number},u{user},i{(item + 3) % items},{scene},{at},{number % 8 // 4}")
    catalog = ["item_id,title", *(f"i{item},thing number {item} of kind {item % 5}" for item in range(items))]
    for name, lines in (("events", events), ("impressions", impressions), ("items", catalog)):
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = f"""
name: walk
warehouse: {json.dumps(str(folder / "warehouse"))}
as_of: 2024-01-16T00:00:00Z
sizes: defaults
source:
  kind: files
  events:
    {{ path: {folder}/events.csv, user: user_id, item: item_id, scene: {{ column: scene }},
      action: {{ column: action }}, time: time }}
  items: {{ path: {folder}/items.csv, item: item_id, title: title }}
  impressions:
    {{ path: {folder}/impressions.csv, impression_id: impression_id, user: user_id, item: item_id,
      time: time, label: label }}
tasks:
  home_click: {{ scene: home, action: click }}
spark: {{ master: "local[2]", driver_memory: 1g, shuffle_partitions: 2 }}
model: {{ fusion: {{ id_width: 8, token_width: 8 }}, encoder: {{ layers: 1, heads: 2, ffn_width: 16 }} }}
universal: {{ epochs: 1, batch_size: 16 }}
targeted: {{ epochs: 1, batch_size: 16 }}
windows: {{ validation_user_share: 0.3, validation_days: 5 }}
ranking_features: {{ tasks: [all] }}
"""
    config.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
