"""Fig. 4a with and without periodical warm-up: simulated days under several policies, each on a copy of one warehouse.

python -m benchmarks.warm_up --config conf/synthetic.yaml --from 2024-02-01 --to 2024-02-20 --every 1 7 0

Writes results/warm_up.jsonl and docs/figures/warm_up_<name>.svg. Killed and started again, it goes on at the day where
it stopped; --fresh starts anew.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import DateFormatter, DayLocator
from matplotlib.figure import Figure

from benchmarks.record import record
from jobs import ingest, run_days
from precise_core.config import load_config, over
from precise_core.config.tasks import ALL_TASK
from precise_core.settings import Settings
from precise_core.warehouse.tables import Warehouse
from schemas import TRAINING_DAYS
from schemas import columns as c

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "warm_up.jsonl"
FIGURES = ROOT / "docs" / "figures"

_RC: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "warm_up", "font.size": 9, "axes.spines.top": False}
_RATE = "untrained_item_rate"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    settings = load_config(arguments.config, Settings, arguments.set)
    root = Path(arguments.work or f"{settings.warehouse}-warm-up")
    if arguments.fresh:
        shutil.rmtree(root, ignore_errors=True)
    days = {}
    for every in arguments.every:
        warehouse = _copy_of_prepared(root, every, arguments)
        span = ["--from", arguments.first, "--to", arguments.last, "--policy", str(every)]
        if code := run_days.main([*_flags(arguments, warehouse), *span]):
            return code
        days[every] = read_days(warehouse, arguments.first, arguments.last)
    # Without --work and --fresh: they say where, not what.
    span = ["--from", arguments.first, "--to", arguments.last, "--every", *map(str, arguments.every)]
    command = shlex.join(["python", "-m", "benchmarks.warm_up", *_flags(arguments), *span])
    record_days(days, f"{settings.name} ({settings.source.kind})", settings.seed, command)
    FIGURES.mkdir(parents=True, exist_ok=True)
    target = draw(days, FIGURES / f"warm_up_{settings.name}.svg")
    print(f"wrote {RESULTS.relative_to(ROOT)} and {target.relative_to(ROOT)}")
    return 0


def read_days(warehouse: Path, first: str, last: str) -> pd.DataFrame:
    """Rows of `training_days` of the nights from ``first`` to ``last``, in their order."""
    tables = Warehouse(str(warehouse))
    days = tables.read_arrow(TRAINING_DAYS, tables.version(TRAINING_DAYS)).to_pandas().sort_values([c.AS_OF, c.TASK])
    return days[days[c.AS_OF].dt.strftime("%Y-%m-%d").between(first, last)]


def record_days(days: Mapping[int, pd.DataFrame], data: str, seed: int, command: str) -> None:
    """The untrained share of items and of exposures, on average over the days and on the last one, per policy."""
    for every, rows in days.items():
        for task, of_task in rows[rows[c.TASK] != ALL_TASK].dropna(subset=[_RATE]).groupby(c.TASK):
            for column, what in ((_RATE, "items"), ("untrained_exposure_rate", "exposures")):
                for when, value in (("mean", of_task[column].mean()), ("last day", of_task[column].iloc[-1])):
                    name = f"exposed {what} untrained by Universal, {when}, {task}: {policy_name(every)}"
                    record(RESULTS, name, float(value), "", None, None, data=data, seed=seed, command=command)


def draw(days: Mapping[int, pd.DataFrame], target: Path) -> Path:
    """One panel per task: the rate of exposed items that Universal Training has not trained, a line per policy."""
    tasks = sorted({task for rows in days.values() for task in rows[c.TASK]} - {ALL_TASK})
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.4, 0.4 + 2.2 * len(tasks)), layout="constrained")
        for axes, task in zip(figure.subplots(len(tasks), 1, sharex=True, squeeze=False)[:, 0], tasks, strict=True):
            for every, rows in days.items():
                of_task = rows[rows[c.TASK] == task]
                axes.plot(of_task[c.AS_OF].dt.tz_localize(None), of_task[_RATE], marker="o", label=policy_name(every))
            axes.set(title=task, ylabel="untrained rate", ylim=(0, None))
            axes.spines["right"].set_visible(False)
            axes.grid(alpha=0.3)
            nights = max(len(rows[c.AS_OF].unique()) for rows in days.values())
            axes.xaxis.set_major_locator(DayLocator(interval=-(-nights // 10)))
            axes.xaxis.set_major_formatter(DateFormatter("%m-%d"))
        lines, names = figure.axes[0].get_legend_handles_labels()  # alike in every panel, so above all of them
        figure.legend(lines, names, loc="outside upper center", ncols=len(names), frameon=False)
        FigureCanvasSVG(figure).print_svg(str(target), metadata={"Date": None})
    return target


def policy_name(every: int) -> str:
    """A policy in words."""
    return {0: "no warm-up after the first day", 1: "warm-up every day"}.get(every, f"warm-up every {every} days")


def _flags(arguments: argparse.Namespace, warehouse: Path | None = None) -> list[str]:
    """The flags for a job, with a warehouse in place of the configured one."""
    sets = over(arguments.set, [f"warehouse={warehouse}"] if warehouse else [])
    return ["--config", arguments.config, *(part for one in sets for part in ("--set", one))]


def _copy_of_prepared(root: Path, every: int, arguments: argparse.Namespace) -> Path:
    """The warehouse of a policy; ingestion, the same for all of them, ran once."""
    prepared, copy = root / "prepared", root / f"every-{every}"
    if copy.exists():
        return copy
    if not (prepared / ".complete").exists():
        if ingest.main(_flags(arguments, prepared)):
            raise SystemExit("warm_up: the source could not be ingested")
        (prepared / ".complete").touch()
    draft = root / f".every-{every}"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(prepared, draft)
    return draft.rename(copy)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="conf/synthetic.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--from", required=True, dest="first", metavar="DAY")
    parser.add_argument("--to", required=True, dest="last", metavar="DAY")
    parser.add_argument("--every", type=int, nargs="+", default=[1, 7, 0], metavar="DAYS", help="policies to compare")
    parser.add_argument("--work", metavar="FOLDER", help="folder of the warehouses; beside the configured one")
    parser.add_argument("--fresh", action="store_true", help="delete them and start anew")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
