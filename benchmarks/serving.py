"""Requests per second and p99 of the server against its real process: `make bench-serving`.

A published warehouse of any size is written without Spark; `wrk` asks for vectors by key, published lists and U2I
searched live, over as many connections as it is told; then a second publication is taken over under full load.

    python -m benchmarks.serving --users 1000000 --items 200000 --width 256
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

import schemas
from benchmarks.inference.vectors import clustered
from benchmarks.record import record
from precise_core.artefacts import INDEXES
from precise_core.index.config import IndexConfig
from precise_core.index.index import build_index
from precise_core.warehouse.arrow_lists import float_lists
from schemas import Table
from schemas import columns as c

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "serving.jsonl"
AS_OF = datetime(2024, 3, 4, tzinfo=UTC)
_PATIENCE_SECONDS = 900
_LIST, _HISTORY, _KEPT = 20, 20, 20_000  # places of a list, events of a user, users with a list and a history
_PATHS = {
    "vector by key": "/user_vector?format=float32&user_id=",
    "published list": "/recommend?k=20&user_id=",
    "U2I searched live": "/recommend?source=u2i&k=20&user_id=",
}
_GOALS = {"vector by key": (3000, 15.0), "U2I searched live": (300, 60.0)}  # requests/s at least, p99 ms below
_LUA = """
local path, users = "%s", %d
function init(args) math.randomseed(tonumber(tostring({}):sub(8)) or 1) end
function request() return wrk.format("GET", path .. "u" .. math.random(0, users - 1)) end
function done(summary, latency)
  local e = summary.errors
  print(string.format('RESULT {"requests": %%d, "seconds": %%f, "errors": %%d, "p99_ms": %%f}', summary.requests,
    summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(99) / 1000))
end
"""

_GOAL_USERS, _GOAL_ITEMS = 1_000_000, 200_000

Load = dict[str, float]


class World:
    """A warehouse of U users and N items, D wide, and one task."""

    def __init__(self, root: Path, users: int, items: int, width: int, seed: int) -> None:
        self.root, self.users, self.items, self.width, self.seed = root, users, items, width, seed

    def write_tables(self) -> None:
        """What no publication changes."""
        rng = np.random.default_rng(self.seed)
        ids = self._ids("i", self.items)
        self._write(schemas.ITEMS, {c.ITEM_ID: ids, c.TITLE: ids})
        self._write(schemas.ITEM_VOCABULARY, {c.ITEM_ID: ids, c.ITEM_INDEX: np.arange(2, self.items + 2)})
        had = pa.array(rng.integers(2, self.items + 2, (self._kept, _HISTORY), dtype=np.int32).tolist())
        users = self._ids("u", self._kept)
        times = pa.array([[AS_OF] * _HISTORY] * self._kept, pa.list_(pa.timestamp("us", "UTC")))
        self._write(
            schemas.USER_SEQUENCES,
            {c.USER_ID: users, c.TASK: self._all(users, "all"), c.ITEM_INDICES: had, c.EVENT_TS: times},
        )
        taken = ids[: min(1000, self.items)]
        self._write(
            schemas.EVENTS,
            {
                c.EVENT_ID: taken,
                c.USER_ID: taken,
                c.ITEM_ID: taken,
                c.EVENT_TS: [AS_OF - timedelta(days=1)] * len(taken),
            },
        )
        rows = np.repeat(np.arange(self._kept), _LIST)
        listed = {
            c.USER_ID: [users[row] for row in rows],
            c.TASK: self._all(rows, "all"),
            c.LIST: self._all(rows, "all"),
            c.RANK: np.tile(np.arange(1, _LIST + 1), self._kept),
            c.ITEM_ID: [ids[item] for item in rng.integers(0, self.items, len(rows))],
            c.REASON: self._all(rows, "taken every 12 days on average, last on 2024-02-17"),
        }
        self._write(schemas.RECOMMENDATIONS, listed)

    def publish(self, night: int) -> None:
        """New vectors of everything, an index of them, and the row that publishes both."""
        model, users = f"universal-{night}", self._ids("u", self.users)
        vectors_UD = clustered(self.users, self.width, self.seed + 2 * night)
        rows = {c.USER_ID: users, c.TASK: self._all(users, "all"), c.MODEL_VERSION: self._all(users, model)}
        self._write(schemas.USER_EMBEDDINGS, rows | {c.EMBEDDING: float_lists(vectors_UD)})
        vectors_ND = clustered(self.items, self.width, self.seed + 2 * night + 1)
        places = np.arange(2, self.items + 2)
        index = build_index(
            self._ids("i", self.items), places, vectors_ND, model_version=model, config=IndexConfig(),
            seed=self.seed, seed_queries_ND=vectors_ND, queries_QD=vectors_UD[:1000],
        )  # fmt: skip
        index.save(self.root / INDEXES / f"{model}-index")
        row = {c.TASK: "all", c.MODEL_VERSION: model, c.INDEX_VERSION: f"{model}-index"}
        at = [(schemas.USER_EMBEDDINGS.name, night)]
        self._write(
            schemas.PUBLISHED_MODELS,
            {name: [value] for name, value in (row | {"table_versions": at, "published_at": AS_OF}).items()},
        )

    @property
    def vector_bytes(self) -> int:
        """Of users and items, and of what U2I2I searches with."""
        return 4 * self.width * (self.users + 2 * self.items)

    @property
    def _kept(self) -> int:
        return min(self.users, _KEPT)

    def _ids(self, letter: str, number: int) -> list[str]:
        return [f"{letter}{row}" for row in range(number)]

    def _all(self, of: Sequence[Any] | np.ndarray, value: str) -> list[str]:
        return [value] * len(of)

    def _write(self, table: Table, columns: dict[str, Any]) -> None:
        schema, rows = table.arrow_schema(), len(next(iter(columns.values())))
        plain = {"string": "", "bool": False, "timestamp[us, tz=UTC]": AS_OF, "date32[day]": AS_OF.date()}
        filled = []
        for field in schema:
            default = (
                None if field.nullable else plain.get(str(field.type), [] if pa.types.is_nested(field.type) else 0)
            )
            values = columns.get(field.name, [default] * rows)
            filled.append(pa.array(values, field.type) if not isinstance(values, pa.Array) else values.cast(field.type))
        path = self.root / "tables" / table.name
        path.mkdir(parents=True, exist_ok=True)
        by = list(table.partition_by) or None
        write_deltalake(str(path), pa.table(filled, schema=schema), mode="overwrite", partition_by=by)


@contextmanager
def serving(world: World, port: int, workers: int) -> Iterator[tuple[int, float]]:
    """The real process; yields its id and the seconds until it was ready."""
    config = world.root.parent / "serving.yaml"
    serve = {"port": port, "workers": workers, "poll_seconds": 1.0, "max_concurrent": 1024}
    made = {"name": "bench", "warehouse": str(world.root), "as_of": AS_OF.isoformat(), "source": {"kind": "synthetic"}}
    config.write_text(json.dumps(made | {"serving": serve}), encoding="utf-8")
    command = [sys.executable, "jobs/serve.py", "--config", str(config)]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}) as process:
        try:
            while not _is_ready(port):
                if process.poll() is not None or time.perf_counter() - started > _PATIENCE_SECONDS:
                    raise SystemExit("the server is not ready, see above")
                time.sleep(0.05)
            yield process.pid, time.perf_counter() - started
        finally:
            process.send_signal(signal.SIGINT)


def _is_ready(port: int) -> bool:
    try:
        return _get(port, "/ready")["ready"]
    except OSError:
        return False


def _get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.load(answer)


def load(world: World, port: int, path: str, seconds: float, connections: int) -> Load:
    """Ask for random users all the time, from one thread of wrk."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_LUA % (path, world.users))
        script.flush()
        asked = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "-s", script.name]
        done = subprocess.run([*asked, f"http://127.0.0.1:{port}"], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found: Load = json.loads(line.removeprefix("RESULT "))
    return found


def memory_of(process: int) -> int:
    """Bytes of a process and those it started, pages that they share counted once."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    own = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return own + sum(memory_of(int(child)) for child in children)


def cpu_seconds_of(process: int) -> float:
    """Of a process and those it started: what a request costs, however busy the machine is."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds_of(int(child)) for child in children)


def swap(world: World, port: int, seconds: float, connections: int, path: str) -> Load:
    """Load while a second publication is taken over; it lasts until the new one answers, at least."""
    world.publish(1)
    found = load(world, port, path, seconds, connections)
    if _get(port, "/version")["tasks"]["all"][c.MODEL_VERSION] != "universal-1":
        raise SystemExit(f"the second publication was not taken over in {seconds:g} s; give more --swap-seconds")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load per kind of request")
    parser.add_argument("--swap-seconds", type=float, default=90.0, help="of load while a publication is taken over")
    parser.add_argument("--port", type=int, default=8098)
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to append the figures to")
    arguments = parser.parse_args(argv)
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not installed: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="precise-serving-") as folder:
        world = World(Path(folder) / "warehouse", arguments.users, arguments.items, arguments.width, arguments.seed)
        world.write_tables()
        world.publish(0)
        measure(world, arguments)


def measure(world: World, arguments: argparse.Namespace) -> None:
    put = partial(_record, arguments)
    port, seconds, connections = arguments.port, arguments.seconds, arguments.connections
    with serving(world, port, arguments.workers) as (_, until_ready):
        put("ready, first start of a publication", until_ready, "s")
    with serving(world, port, arguments.workers) as (process, until_ready):
        put("ready, started again", until_ready, "s", "at most 5", until_ready <= 5)
        usual: dict[str, Load] = {}
        for name, path in _PATHS.items():
            load(world, port, path, 1, connections)
            before = cpu_seconds_of(process)
            found = usual[name] = load(world, port, path, seconds, connections)
            cpu = cpu_seconds_of(process) - before
            least, most = _GOALS.get(name, (None, None))
            rate = found["requests"] / found["seconds"]
            put(name, rate, "requests/s", f"at least {least:,}" if least else None, least and rate >= least)
            p99 = found["p99_ms"]
            put(f"{name}, p99", p99, "ms", f"below {most:g}" if most else None, most and p99 < most)
            put(f"{name}, CPU", 1000 * cpu / found["requests"], "ms per request")
            put(f"{name}, errors", found["errors"], "requests", "0", found["errors"] == 0)
        memory = memory_of(process)
        put("memory beside the vectors", (memory - world.vector_bytes) / 2**20, "MiB")
        if _is_large(arguments):
            share = memory / world.vector_bytes
            put("memory over that of the vectors", share, "", "at most 1.3", share <= 1.3)
        name = "vector by key"
        found = swap(world, port, arguments.swap_seconds, connections, _PATHS[name])
        put("takeover under load, errors", found["errors"], "requests", "0", found["errors"] == 0)
        ratio = found["p99_ms"] / usual[name]["p99_ms"]
        put("takeover under load, p99 over the usual", ratio, "", "below 2", ratio < 2)


def _is_large(arguments: argparse.Namespace) -> bool:
    """Whether the warehouse is the one that the goals are for."""
    return arguments.users >= _GOAL_USERS and arguments.items >= _GOAL_ITEMS


def _record(
    arguments: argparse.Namespace, name: str, value: float, unit: str, goal: str | None = None, meets: Any = None
) -> None:
    sizes = f"--users {arguments.users} --items {arguments.items} --width {arguments.width}"
    data = (
        f"{arguments.users:,} users, {arguments.items:,} items, width {arguments.width}, {arguments.workers} workers, "
        f"{arguments.connections} connections, load average {os.getloadavg()[0]:.0f} at the time"
    )
    goal = goal if _is_large(arguments) else None
    verdict = None if goal is None else bool(meets)
    asked = f"--workers {arguments.workers} --connections {arguments.connections}"
    command = f"python -m benchmarks.serving {sizes} {asked}"
    record(arguments.results, name, value, unit, goal, verdict, data, arguments.seed, command)
    print(f"{name}: {value:,.4g} {unit}{'' if goal is None else f' (goal: {goal})'}", flush=True)


if __name__ == "__main__":
    main()
