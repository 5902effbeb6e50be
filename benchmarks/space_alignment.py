"""Yesterday's ranking model on today's vectors: does one space across retrains hold what retraining holds?

python -m benchmarks.space_alignment --config conf/ranking_synthetic.yaml --from 2024-01-31

Some nights, ``--step-days`` apart, each with Universal Training from scratch and, in another line of nights, going on.
A DCN of the discrete features learns from the impressions of the days between two nights, with the vectors of the
earlier one; the days after the later night are the test. There it reads the new vectors `unaligned`, as they come out
of training, and `aligned`, through the map that the checkpoint has; beside it stand a DCN `retrained` on the new
vectors, of the same impressions, and one `without` vectors. Users are encoded from what they had done before the night.
Prints three tables: means over the nights, the maps, and the ranking models. `--results FILE` keeps them for
`docs/results/alignment.md` (`make results`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.about import about_run
from benchmarks.alignment_page import METRICS, WITHOUT, tables
from benchmarks.table_ix import probabilities
from jobs import build_windows, embed_tokens, ingest, tokenize_items
from precise_core.artefacts import has_checkpoint
from precise_core.config import load_config, over
from precise_core.config.tasks import ALL_TASK
from precise_core.errors import NothingNewError
from precise_core.evaluation.impressions import ImpressionTask, evaluate_impressions
from precise_core.feed.catalog import load_item_catalog
from precise_core.intake.chosen_sizes import sized
from precise_core.models.catalog import ItemCatalog
from precise_core.ranking.data import RankingData
from precise_core.ranking.variants import Variant
from precise_core.run.job import Job
from precise_core.settings import Settings
from precise_core.training.alignment import refusal
from precise_core.training.checkpoint import Checkpoint, latest, put_in_use
from precise_core.training.closeness import mean_cosine
from precise_core.training.night import pinned_snapshot, train_from_tables, universal_inputs
from precise_core.training.watching import NullProgress
from precise_core.vectors.encoding import encode_catalog, encode_users
from precise_core.warehouse.tables import Warehouse
from schemas import EVENTS, IMPRESSIONS, ITEM_TOKENS, ITEM_VOCABULARY, ITEMS, Table
from schemas import columns as c

ALONE = Variant(WITHOUT, ALL_TASK, use_vectors=False)
BOTH = Variant("vectors and score", ALL_TASK)
VECTORS = Variant("vectors only", ALL_TASK, inject_score=False)
POLICIES = ("scratch", "continue")
# Every map is kept, so that one beyond the limits is measured too; what the limits say stands beside it.
_NO_LIMITS = {
    "enabled": True,
    "smallest_cosine": -1.0,
    "largest_residual": 1e9,
    "smallest_neighbour_overlap": 0.0,
    "continued": True,
}
_VALIDATION_SHARE = 0.15  # of the training impressions, the last of them


@dataclass(frozen=True)
class World:
    """What happened, as frames; items by their row of the newest vocabulary (0 = none)."""

    events: pd.DataFrame
    impressions: pd.DataFrame


@dataclass(frozen=True)
class Night:
    as_of: datetime
    catalog: ItemCatalog
    checkpoints: Mapping[str, Checkpoint]  # by policy
    another_seed: Checkpoint | None  # of the first night: the same data, trained with another seed


@dataclass(frozen=True)
class Vectors:
    """Of every user with a history and of every item of a night, by id and by row; what training left."""

    users: Mapping[str, int]
    users_UD: np.ndarray
    items_VD: np.ndarray

    def mapped(self, map_DD: np.ndarray | None) -> Vectors:
        return self if map_DD is None else Vectors(self.users, self.users_UD @ map_DD, self.items_VD @ map_DD)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = _parse(argv)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(arguments.work or scratch).resolve()
        first = datetime.fromisoformat(arguments.first).replace(tzinfo=UTC)
        step = timedelta(days=arguments.step_days)
        nights = [_night(arguments, root, number, first + number * step) for number in range(arguments.nights)]
        settings = _settings(arguments, root, first)
        found = measure(settings, nights, _world(settings), step, arguments.seeds)
    print("\n".join(tables(found)))
    if arguments.results:
        sizes = [f"--from={arguments.first}", f"--nights={arguments.nights}", f"--step-days={arguments.step_days}"]
        found = about_run("benchmarks.space_alignment", arguments, sizes) | found
        arguments.results.parent.mkdir(exist_ok=True)
        arguments.results.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def measure(
    settings: Settings, nights: Sequence[Night], world: World, step: timedelta, seeds: Sequence[int]
) -> dict[str, Any]:
    """Figures of every night but the first, by policy."""
    found: dict[str, Any] = {"name": settings.name, "seeds": list(seeds), "nights": [], "rankers": []}
    other = nights[0].another_seed
    if other is not None:
        found["nights"].append({"policy": "same data, another seed", **_figures(nights[0], other, settings)})
    for before, now in pairwise(nights):
        for policy in POLICIES:
            then, today = before.checkpoints[policy], now.checkpoints[policy]
            if then.model_version == today.model_version:
                print(f"{now.as_of:%Y-%m-%d}, {policy}: nothing new was learnt, left out", flush=True)
                continue
            moved = _user_cosines(world, before, now, policy)
            found["nights"].append({"policy": policy, **_figures(now, today, settings), **moved})
            print(f"{now.as_of:%Y-%m-%d}, {policy}: {found['nights'][-1]}", flush=True)
            found["rankers"] += _rankers(settings, world, before, now, policy, step, seeds)
    return found


def _figures(night: Night, checkpoint: Checkpoint, settings: Settings) -> dict[str, Any]:
    """Of the map, on items that it was not fitted on; ``verdict`` is what the configured limits say."""
    alignment = checkpoint.manifest.alignment
    about = {"night": f"{night.as_of:%Y-%m-%d}", "anchor": checkpoint.manifest.anchor_version}
    if alignment is None or alignment.refusal is not None:
        return about | {"verdict": alignment.refusal if alignment else "no earlier model"}
    verdict = refusal(alignment.figures, settings.alignment) or "kept"
    return about | {"items_fitted": alignment.items_fitted, **alignment.figures, "verdict": verdict}


def _user_cosines(world: World, before: Night, now: Night, policy: str) -> dict[str, float]:
    """Of users without a new event: their vectors of today with those of the night before."""
    old = _vectors(world, before, before.checkpoints[policy], before.as_of)
    new = _vectors(world, now, now.checkpoints[policy], now.as_of)
    seen = world.events[(world.events[c.EVENT_TS] >= before.as_of) & (world.events[c.EVENT_TS] < now.as_of)]
    still = sorted(old.users.keys() & new.users.keys() - set(seen[c.USER_ID]))
    if not still:
        return {}
    places = [np.array([vectors.users[user] for user in still]) for vectors in (old, new)]

    def cosine(is_mapped: bool) -> float:
        maps = [_map(night.checkpoints[policy]) if is_mapped else None for night in (before, now)]
        sides = [side.mapped(one).users_UD[at] for side, one, at in zip((old, new), maps, places, strict=True)]
        return mean_cosine(*sides)

    return {"users": len(still), "user_cosine_before": cosine(False), "user_cosine": cosine(True)}


def _rankers(
    settings: Settings,
    world: World,
    before: Night,
    now: Night,
    policy: str,
    step: timedelta,
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """Mean figures over the seeds of every way to meet today's vectors."""
    then, today = before.checkpoints[policy], now.checkpoints[policy]
    shown = (before.as_of, now.as_of), (now.as_of, now.as_of + step)
    old = _vectors(world, before, then, before.as_of)
    new = _vectors(world, now, today, before.as_of)  # for the DCN that is trained again
    served = _vectors(world, now, today, now.as_of)
    train_raw, train_old, train_new = (
        _rows(world, *shown[0], vectors) for vectors in (old, old.mapped(_map(then)), new.mapped(_map(today)))
    )
    test_raw, test = _rows(world, *shown[1], served), _rows(world, *shown[1], served.mapped(_map(today)))
    task = ImpressionTask(ALL_TASK, now.as_of, test.user_ids_I, test.labels_I, samples=1, seed=settings.seed)
    ways = [(WITHOUT, ALONE, train_old, test)]
    for variant in (BOTH, VECTORS):
        ways += [
            (f"unaligned, {variant.system}", variant, train_raw, test_raw),
            (f"aligned, {variant.system}", variant, train_old, test),
            (f"retrained, {variant.system}", variant, train_new, test),
        ]
    found = []
    for name, variant, train, tested in ways:
        of_seeds = [_of_seed(settings, seed, variant, train, tested, task) for seed in seeds]
        means = {metric: float(np.mean([figures[metric] for figures in of_seeds])) for metric in METRICS}
        night, sizes = f"{now.as_of:%Y-%m-%d}", {"train": len(train), "test": len(tested)}
        found.append({"night": night, "policy": policy, "system": name, **sizes, **means})
        print(f"{night}, {policy}, {name}: {means}", flush=True)
    return found


def _of_seed(
    settings: Settings, seed: int, variant: Variant, train: RankingData, test: RankingData, task: ImpressionTask
) -> dict[str, float]:
    found = probabilities(settings, seed, variant, train, test, ALL_TASK)
    rows = evaluate_impressions({variant.system: found}, task)
    return {row["metric"]: row["value"] for row in rows}


def _map(checkpoint: Checkpoint) -> np.ndarray | None:
    found = checkpoint.space_map()
    return None if found is None else found.numpy()


def _vectors(world: World, night: Night, checkpoint: Checkpoint, until: datetime) -> Vectors:
    """Under a checkpoint, of the users' histories ``until`` an instant, without the map."""
    model, catalog = checkpoint.load_model(), night.catalog
    model.space_map_DD = None
    known = world.events[(world.events[c.EVENT_TS] < until) & (world.events[c.ITEM_INDEX] < catalog.num_rows)]
    histories = known[known[c.ITEM_INDEX] > 0].groupby(c.USER_ID, sort=True)[c.ITEM_INDEX].agg(list)
    sequences = [np.array(items, np.int64) for items in histories]
    length = checkpoint.manifest.model.encoder.max_length
    return Vectors(
        users={user: place for place, user in enumerate(histories.index)},
        users_UD=encode_users(model, catalog, sequences, length),
        items_VD=encode_catalog(model, catalog, np.arange(catalog.num_rows)),
    )


def _rows(world: World, since: datetime, until: datetime, vectors: Vectors) -> RankingData:
    """Impressions of some days with discrete features and vectors; those of one space, because they are told so."""
    shown = world.impressions
    shown = shown[(shown[c.IMPRESSION_TS] >= since) & (shown[c.IMPRESSION_TS] < until)].reset_index(drop=True)
    user_rows = shown[c.USER_ID].map(vectors.users)
    has_user, items = user_rows.notna().to_numpy(), shown[c.ITEM_INDEX].to_numpy()
    has_item = (items >= c.FIRST_ITEM_INDEX) & (items < len(vectors.items_VD))
    users_ID = vectors.users_UD[user_rows.fillna(0).to_numpy(np.int64)] * has_user[:, None]
    items_ID = vectors.items_VD[np.where(has_item, items, 0)] * has_item[:, None]
    scores_I = np.where(has_user & has_item, (users_ID * items_ID).sum(axis=1), np.nan)
    begins = shown[c.IMPRESSION_TS].quantile(1 - _VALIDATION_SHARE)
    texts = {name: shown[name].astype(str).to_numpy(object) for name in shown.attrs["features"]}
    return RankingData(
        impression_ids_I=shown[c.IMPRESSION_ID].to_numpy(object),
        user_ids_I=shown[c.USER_ID].to_numpy(object),
        splits_I=np.where(shown[c.IMPRESSION_TS] < begins, "train", "validation").astype(object),
        labels_I=shown[c.LABEL].to_numpy(np.float32),
        sparse=texts,
        dense={},
        user_vectors_ID=users_ID.astype(np.float32),
        item_vectors_ID=items_ID.astype(np.float32),
        has_user_I=has_user,
        has_item_I=has_item,
        scores_I=scores_I.astype(np.float32),
        model_versions_I=np.full(len(shown), "", object),
        space="one",
    )


def _world(settings: Settings) -> World:
    """Events and impressions with the item's row, and the discrete features of `ranking_features`."""
    tables = Warehouse(settings.warehouse)

    def frame(wanted: Table, *columns: str) -> pd.DataFrame:
        return tables.read_arrow(wanted, tables.version(wanted), columns).to_pandas()

    rows = frame(ITEM_VOCABULARY, c.ITEM_ID, c.ITEM_INDEX).set_index(c.ITEM_ID)[c.ITEM_INDEX]
    events = frame(EVENTS, c.USER_ID, c.ITEM_ID, c.EVENT_TS).sort_values([c.USER_ID, c.EVENT_TS], kind="stable")
    events[c.ITEM_INDEX] = events[c.ITEM_ID].map(rows).fillna(0).astype(np.int64)
    shown = frame(IMPRESSIONS, *IMPRESSIONS.column_names).sort_values([c.IMPRESSION_TS, c.IMPRESSION_ID])
    shown[c.ITEM_INDEX] = shown[c.ITEM_ID].map(rows).fillna(0).astype(np.int64)
    lists = frame(ITEMS, c.ITEM_ID, c.CATEGORIES).set_index(c.ITEM_ID)[c.CATEGORIES]
    first = lists.map(lambda names: names[0] if names is not None and len(names) else "")
    shown["category"] = shown[c.ITEM_ID].map(first).fillna("")
    shown["hour"], shown["day_of_week"] = shown[c.IMPRESSION_TS].dt.hour, shown[c.IMPRESSION_TS].dt.dayofweek
    context = shown[c.CONTEXT].map(dict)
    names = sorted({name for one in context for name in one})
    for name in names:
        shown[f"context_{name}"] = [one.get(name, "") for one in context]
    own = [c.USER_ID, c.ITEM_ID, "category", "hour", "day_of_week", *(f"context_{name}" for name in names)]
    shown.attrs["features"] = own
    return World(events, shown)


def _night(arguments: argparse.Namespace, root: Path, number: int, as_of: datetime) -> Night:
    """The tables of one night, and its trainings: every policy has checkpoints of its own."""
    flags = _flags(arguments, root, as_of)
    for module in ([ingest] if number == 0 else []) + [tokenize_items, embed_tokens, build_windows]:
        if module.main(flags):
            raise SystemExit(f"space_alignment: {module.__name__} failed")
    job = Job("space_alignment", _settings(arguments, root, as_of), Namespace())
    checkpoints = {policy: _trained(job, root / policy, policy) for policy in POLICIES}
    other = _with_another_seed(job, root, checkpoints["scratch"]) if number == 0 else None
    return Night(as_of, load_item_catalog(pinned_snapshot(job, ITEM_TOKENS)), checkpoints, other)


def _trained(job: Job, out: Path, policy: str) -> Checkpoint:
    """Tonight's universal checkpoint, in the space of the first one; the one in use where nothing new was learnt."""
    before = latest(out, ALL_TASK) if has_checkpoint(out, ALL_TASK) else None
    limits = job.settings.alignment.model_copy(update=_NO_LIMITS)
    inputs = universal_inputs(job, ALL_TASK)
    inputs = replace(inputs, settings=inputs.settings.model_copy(update={"alignment": limits}), out=out)
    goes_on = policy == "continue"
    inputs = replace(inputs, parent=before if goes_on else None, earlier=None if goes_on else before)
    try:
        checkpoint = train_from_tables(inputs, NullProgress())
    except NothingNewError:
        return latest(out, ALL_TASK)
    put_in_use(out, ALL_TASK, checkpoint)
    for note in checkpoint.manifest.notes:
        print(f"{policy}: {note}", flush=True)
    return checkpoint


def _with_another_seed(job: Job, root: Path, first: Checkpoint) -> Checkpoint:
    """How arbitrary a space is: the same tables, mapped to the first checkpoint."""
    inputs = universal_inputs(job, ALL_TASK)
    changes = {"seed": job.settings.seed + 1, "alignment": job.settings.alignment.model_copy(update=_NO_LIMITS)}
    own = inputs.settings.model_copy(update=changes)
    return train_from_tables(replace(inputs, settings=own, out=root / "another-seed", earlier=first), NullProgress())


def _settings(arguments: argparse.Namespace, root: Path, as_of: datetime) -> Settings:
    return sized(load_config(arguments.config, Settings, _overrides(arguments, root, as_of)))


def _flags(arguments: argparse.Namespace, root: Path, as_of: datetime) -> list[str]:
    sets = _overrides(arguments, root, as_of)
    return ["--config", arguments.config, *(part for one in sets for part in ("--set", one))]


def _overrides(arguments: argparse.Namespace, root: Path, as_of: datetime) -> list[str]:
    """Later nights know later items; the flags of the command line come before that."""
    own = [f"warehouse={root / 'warehouse'}", f"as_of={as_of:%Y-%m-%dT%H:%M:%SZ}"]
    return over(["text.published_only=true"], over(arguments.set, own))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="conf/ranking_synthetic.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override one key")
    parser.add_argument("--from", required=True, dest="first", metavar="DAY", help="the first night")
    parser.add_argument("--nights", type=int, default=4, help="one more than are compared")
    parser.add_argument("--step-days", type=int, default=5, metavar="N", help="days from one night to the next")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the ranking models")
    parser.add_argument("--work", metavar="FOLDER", help="an empty folder for tables and checkpoints, which are kept")
    parser.add_argument("--results", type=Path, help="JSON file to write")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
