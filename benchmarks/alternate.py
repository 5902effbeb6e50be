"""Fig. 4b with and without alternate training: how alike the id vectors of similar items become.

python -m benchmarks.alternate --config conf/experiments/alternate_synthetic.yaml
python -m benchmarks.alternate --config conf/experiments/alternate_grocery.yaml

The configuration is an experiment with the systems `together` and `alternate`, which differ in
`universal.alternate.enabled`. Runs it, then compares the id vectors of items that are nearest neighbours by their whole
vectors. Writes results/alternate.jsonl and docs/figures/<name>.svg.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from benchmarks.record import record
from benchmarks.similar_pairs import pair_cosines, similar_pairs
from jobs import run_experiment
from precise_core.command import overrides_of
from precise_core.config import load_config
from precise_core.experiments.experiment import experiment_folder
from precise_core.feed.catalog import load_item_catalog
from precise_core.intake.read import describe_source
from precise_core.models.catalog import ItemCatalog
from precise_core.settings import Settings
from precise_core.training.checkpoint import Checkpoint
from precise_core.vectors.encoding import encode_catalog
from precise_core.warehouse.reader import DeltaSnapshot
from precise_core.warehouse.tables import Warehouse
from schemas import ITEM_TOKENS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "alternate.jsonl"
FIGURES = ROOT / "docs" / "figures"
SYSTEMS = ("together", "alternate")

Cosines = tuple[np.ndarray, np.ndarray]  # of similar pairs, of random pairs

_RC: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "alternate", "font.size": 9, "axes.spines.top": False}
_PAIRS = 2000


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    overrides = overrides_of(arguments)
    settings = load_config(arguments.config, Settings, overrides)
    shared = ["--config", arguments.config, *(part for override in overrides for part in ("--set", override))]
    results = experiment_folder(settings) / "results.json"
    if code := run_experiment.main([*shared, "--results", str(results)]):
        return code
    trained = json.loads(results.read_text(encoding="utf-8"))["trained"]
    folder = experiment_folder(settings) / "checkpoints"
    catalog = load_item_catalog(DeltaSnapshot(Warehouse(settings.warehouse).path(ITEM_TOKENS)))
    cosines = {
        name: id_cosines(Checkpoint.open(folder / trained[name][0]["model_version"]), catalog, settings.seed)
        for name in SYSTEMS
    }
    # A folder says where the data lies, not what it is.
    sets = [part for override in arguments.set for part in ("--set", override)]
    command = shlex.join(["python", "-m", "benchmarks.alternate", "--config", arguments.config, *sets])
    command += " --data <folder>" if arguments.data else ""
    record_cosines(cosines, settings, command)
    FIGURES.mkdir(parents=True, exist_ok=True)
    target = draw({name: similar for name, (similar, _) in cosines.items()}, FIGURES / f"{settings.name}.svg")
    print(f"wrote {RESULTS.relative_to(ROOT)} and {target.relative_to(ROOT)}")
    return 0


def record_cosines(cosines: Mapping[str, Cosines], settings: Settings, command: str, results: Path = RESULTS) -> None:
    """Mean and deviation of both kinds of pairs of every system."""
    data = describe_source(settings.source)
    for name, (similar, anyhow) in cosines.items():
        for what, values in (("similar items", similar), ("random items", anyhow)):
            for figure, value in (("mean", values.mean()), ("standard deviation", values.std())):
                label = f"{settings.name}: cosine of id vectors of {what}, {figure}, {name}"
                record(results, label, float(value), "", None, None, data, settings.seed, command)


def id_cosines(checkpoint: Checkpoint, catalog: ItemCatalog, seed: int) -> Cosines:
    """Cosines of the id vectors of similar pairs, and of random pairs, of the trained items of a checkpoint.

    Similar = nearest neighbours by the whole item vector, as in the paper.
    """
    model = checkpoint.load_model()
    rows = np.flatnonzero(checkpoint.item_frequencies().numpy() > 0)
    ids_ND = model.fusion.id_table.weight.detach().numpy()[rows]
    whole_ND = encode_catalog(model, catalog, rows)
    pairs = similar_pairs(whole_ND, _PAIRS, seed)
    anyhow = np.stack([pairs[:, 0], np.random.default_rng(seed).permutation(pairs[:, 1])], axis=1)
    return pair_cosines(ids_ND, pairs), pair_cosines(ids_ND, anyhow)


def draw(cosines: Mapping[str, np.ndarray], target: Path) -> Path:
    """A histogram per system over one axis of cosines."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(6.4, 2.8), layout="constrained")
        axes = figure.subplots()
        for name, values in cosines.items():
            axes.hist(values, bins=60, range=(-1, 1), density=True, histtype="step", label=name)
        axes.set(xlabel="cosine of the id vectors of similar items", ylabel="density", xlim=(-1, 1))
        axes.spines["right"].set_visible(False)
        axes.legend(frameon=False)
        FigureCanvasSVG(figure).print_svg(str(target), metadata={"Date": None})
    return target


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--data", metavar="FOLDER")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
