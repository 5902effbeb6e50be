"""Simulated days: which nights warm up, what is reloaded, kept and grown, and what Fig. 4a counts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession

from precise_core.errors import CheckpointError, ConfigError, NothingNewError, NothingToLearnError
from precise_core.experiments.days import exposure_of, nights
from precise_core.feed.windows import WindowFeed
from precise_core.models.catalog import ItemCatalog, TokenInit
from precise_core.text.vocabulary import published_before
from precise_core.training.checkpoint import Checkpoint
from precise_core.training.config import TargetedConfig, UniversalConfig
from precise_core.training.continuation import grown, newest_before
from precise_core.training.setup import TrainingInputs
from precise_core.training.targeted import train_targeted
from precise_core.training.universal import train_universal
from precise_core.training.warm_up import is_warm_up_night, night_start
from precise_core.training.watching import NullProgress, Progress
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import columns as c
from tests.torch_world import (
    grouped_windows,
    states_catalog,
    tiny_model,
    tiny_targeted,
    tiny_universal,
    world_catalog,
    write_windows,
)

ROOT_SECONDS = 1_000_000  # the first night; torch_world's events lie before it
FIRST = datetime.fromtimestamp(ROOT_SECONDS, UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class World:
    """A growing table of windows and the checkpoints of its nights."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder / "training_windows", folder / "checkpoints"
        for number, task in enumerate(("all", "click")):
            write_windows(self.folder, grouped_windows(120, seed=number), task)
            write_windows(self.folder, grouped_windows(20, seed=9 + number, with_targets=True), task, "validation")

    def add_day(self, items: list[int], as_of: datetime) -> None:
        """Windows of two old items and then ``items``, seen just before ``as_of``; held-out users do the same."""
        end = int(as_of.timestamp())
        times = [100, 101, *range(end - len(items), end)]
        for task in ("all", "click"):
            write_windows(self.folder, [([2, 4, *items], times, [])] * 20, task)
            write_windows(self.folder, [([2, 4], [100, 101], items)] * 20, task, "validation")

    @property
    def windows(self) -> DeltaSnapshot:
        return DeltaSnapshot(self.folder)

    def universal(
        self,
        as_of: datetime,
        parent: Checkpoint | None = None,
        num_items: int = 20,
        config: UniversalConfig | None = None,
        progress: Progress | None = None,
    ) -> Checkpoint:
        return train_universal(
            TrainingInputs(
                windows=self.windows,
                catalog=world_catalog(num_items),
                out=self.out,
                seed=5,
                versions={},
                as_of=as_of,
                progress=progress or NullProgress(),
            ),
            model_config=tiny_model(),
            config=config or tiny_universal(batch_size=8),  # of few windows a night: more than one step an epoch
            parent=parent,
        )

    def targeted(
        self,
        as_of: datetime,
        universal: Checkpoint,
        previous: Checkpoint | None = None,
        config: TargetedConfig | None = None,
        num_items: int = 20,
        progress: Progress | None = None,
    ) -> Checkpoint:
        return train_targeted(
            TrainingInputs(
                windows=self.windows,
                catalog=world_catalog(num_items),
                task="click",
                out=self.out,
                seed=5,
                versions={},
                as_of=as_of,
                progress=progress or NullProgress(),
            ),
            config=config or tiny_targeted(),
            universal=universal,
            previous=previous,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return checkpoint.load_model().state_dict()


def test_nights_are_midnights_of_both_ends() -> None:
    days = nights(date(2024, 2, 27), date(2024, 3, 2), 2)
    assert [f"{day:%m-%d %H:%M}" for day in days] == ["02-27 00:00", "02-29 00:00", "03-02 00:00"]
    with pytest.raises(ConfigError, match="--from 2024-03-02 is after --to 2024-03-01"):
        nights(date(2024, 3, 2), date(2024, 3, 1), 1)
    with pytest.raises(ConfigError, match="--step-days 0"):
        nights(date(2024, 3, 1), date(2024, 3, 2), 0)


def test_which_nights_warm_up(world: World) -> None:
    last = world.targeted(FIRST, world.universal(FIRST))
    assert last.manifest.warm_up_as_of == FIRST

    def warm_ups(every: int) -> list[int]:
        return [day for day in range(1, 15) if is_warm_up_night(last, FIRST + day * DAY, every)]

    assert is_warm_up_night(None, FIRST, 0)
    assert warm_ups(0) == []
    assert warm_ups(1) == list(range(1, 15))
    assert warm_ups(7) == list(range(7, 15))


def test_a_feed_of_new_windows_delivers_those_whose_newest_event_is_not_older(world: World) -> None:
    world.add_day([6, 8], FIRST + DAY)
    end = ROOT_SECONDS + 86_400
    assert WindowFeed(world.windows, "all", "train", 16, 0).num_rows == 140
    for since in (ROOT_SECONDS, end - 1):
        feed = WindowFeed(world.windows, "all", "train", 16, 0, since=since)
        batches = list(feed.epoch(0))
        assert feed.num_rows == sum(map(len, batches)) == 20
        assert all((batch.event_ts_BL[:, -1] >= since).all() for batch in batches)
    with pytest.raises(NothingToLearnError, match="has 0 train windows since 1970-01-13 13:46"):
        WindowFeed(world.windows, "all", "train", 16, 0, since=end)


def test_universal_goes_on_grows_and_remembers_what_it_learnt(world: World) -> None:
    first = world.universal(FIRST)
    world.add_day([24, 25], FIRST + DAY)  # items 24 and 25 are new
    second = world.universal(FIRST + DAY, parent=first, num_items=24)
    manifest = second.manifest
    assert (manifest.parent, manifest.previous, manifest.as_of) == (
        first.model_version,
        first.model_version,
        FIRST + DAY,
    )
    assert manifest.vector_space == first.manifest.vector_space == first.model_version
    assert set(manifest.copied) == {name for name, _ in second.load_model().named_parameters()}
    assert (first.manifest.num_item_rows, manifest.num_item_rows) == (22, 26)
    is_new = second.is_universal_trained() & ~torch.cat([first.is_universal_trained(), torch.zeros(4).bool()])
    assert is_new.nonzero()[:, 0].tolist() == [24, 25]
    # Twenty windows: each new event counts once, the two old items of the windows are not counted again.
    added = second.item_frequencies() - torch.cat([first.item_frequencies(), torch.zeros(4).long()])
    assert added[24:].tolist() == [20, 20] and added[:24].abs().sum() == 0


def test_grown_rows_equal_the_unknown_row_and_old_rows_are_kept(world: World) -> None:
    checkpoint = world.universal(FIRST)
    old, model = checkpoint.load_model().fusion, grown(checkpoint, world_catalog(24)).fusion
    assert torch.equal(model.id_table.weight[:22], old.id_table.weight)
    assert torch.equal(model.id_table.weight[22:], old.id_table.weight[c.UNKNOWN_INDEX].expand(4, -1))
    assert model.is_trained_V[22:].sum() == 0
    new_tokens = set(model.known_token_ids_W.tolist()) - set(old.known_token_ids_W.tolist())
    assert new_tokens == {42, 43, 44, 45}  # 20 + item_index
    for token in model.known_token_ids_W.tolist():
        row = model.token_table.weight[1 + model.known_token_ids_W.tolist().index(token)]
        origin = 0 if token in new_tokens else 1 + old.known_token_ids_W.tolist().index(token)
        assert torch.equal(row, old.token_table.weight[origin])


def test_a_grown_model_ranks_as_its_parent(world: World) -> None:
    checkpoint = world.universal(FIRST)
    catalog, items = world_catalog(24), torch.tensor([2, 3, 21, 24, 25])
    tokens, counts = catalog.token_ids_VT[items], catalog.token_counts_V[items]
    before = checkpoint.load_model().item_embeddings(items, tokens, counts)
    assert torch.equal(before, grown(checkpoint, catalog).eval().item_embeddings(items, tokens, counts))


def test_a_new_token_is_written_in_the_coordinates_of_the_trained_ones(world: World) -> None:
    checkpoint = world.universal(FIRST)
    trained = checkpoint.load_model().fusion
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    new = torch.arange(8.0)
    vectors = torch.cat([trained.token_table.weight[1:], new[None]]) @ rotation  # tonight's PCA has other axes
    init = TokenInit(torch.cat([trained.known_token_ids_W, torch.tensor([45])]), vectors.detach(), "lm")
    fusion = grown(checkpoint, world_catalog(24), init).fusion
    torch.testing.assert_close(fusion.token_table.weight[-1].detach(), new, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        fusion.token_table.weight[1 : len(trained.known_token_ids_W)], trained.token_table.weight[1:-1]
    )


def test_a_contextual_model_goes_on_with_the_states_of_new_texts(world: World) -> None:
    fusion = {"mode": "moe", "id_width": 8, "token_width": 8, "num_experts": 3, "top_k": 2}
    model = tiny_model(fusion=fusion | {"token_init": "contextual"})

    def universal(catalog: ItemCatalog, as_of: datetime, parent: Checkpoint | None = None) -> Checkpoint:
        return train_universal(
            TrainingInputs(windows=world.windows, catalog=catalog, out=world.out, seed=5, versions={}, as_of=as_of),
            model_config=model,
            config=tiny_universal(),
            parent=parent,
        )

    first = universal(states_catalog(), FIRST)
    world.add_day([24, 25], FIRST + DAY)
    second = universal(states_catalog(24), FIRST + DAY, first)
    assert second.manifest.parent == first.model_version and second.manifest.state_width == first.manifest.state_width
    assert second.is_universal_trained()[24:].all() and second.load_model().num_item_rows == 26
    other = states_catalog(24, language_model="other@2")
    with pytest.raises(CheckpointError, match=r"states of lm@1.*other@2.*run one night with universal.start=scratch"):
        universal(other, FIRST + DAY, first)
    with pytest.raises(CheckpointError, match=r"the item catalog has none"):
        universal(world_catalog(24), FIRST + DAY, first)


def test_a_warm_up_reloads_everything_but_the_head(world: World) -> None:
    universal = world.universal(FIRST)
    first = world.targeted(FIRST, universal, config=tiny_targeted(epochs=4, loss="softmax"))
    assert first.manifest.best_epoch > 0  # a head of its own
    world.add_day([6, 8], FIRST + DAY)
    second = world.universal(FIRST + DAY, parent=universal)
    start = night_start(tiny_targeted(), second, first, world_catalog(), FIRST + DAY, seed=5)
    assert start.since is None and start.warm_up_as_of == FIRST + DAY and start.universal == second.model_version
    model, of_universal, of_task = start.model.state_dict(), weights(second), weights(first)
    heads = {name for name in model if name.startswith("head.")}
    assert all(torch.equal(model[name], of_universal[name]) for name in set(model) - heads)
    assert heads and all(torch.equal(model[name], of_task[name]) for name in heads)
    assert (
        set(start.kept) == heads
        and not start.new
        and set(start.copied) == {n for n in of_universal if "_V" not in n and "_W" not in n}
    )
    checkpoint = world.targeted(FIRST + DAY, second, previous=first)
    assert torch.equal(checkpoint.is_universal_trained(), second.is_universal_trained())
    assert checkpoint.manifest.previous == first.model_version and set(checkpoint.manifest.kept) == heads
    spaces = {made.manifest.vector_space for made in (first, checkpoint)}
    assert spaces == {f"{first.manifest.task}/{universal.model_version}"}  # the second universal goes on from the first


def test_between_warm_ups_the_task_goes_on_and_its_memory_of_universal_stays(world: World) -> None:
    never = tiny_targeted(warm_up_every_days=0, epochs=4, loss="softmax")
    universal = world.universal(FIRST)
    first = world.targeted(FIRST, universal, config=never)
    world.add_day([24, 25], FIRST + DAY)
    second = world.universal(FIRST + DAY, parent=universal, num_items=24)
    assert second.is_universal_trained()[24:].all()
    start = night_start(never, second, first, world_catalog(24), FIRST + DAY, seed=5)
    assert start.parent == first and start.since == ROOT_SECONDS and start.warm_up_as_of == FIRST
    assert all(
        torch.equal(start.model.state_dict()[name], value) for name, value in weights(first).items() if "head" in name
    )
    assert start.universal == universal.model_version
    assert not start.is_universal_trained_V[22:].any()  # Universal has learnt them since, but not for this model
    assert torch.equal(start.is_universal_trained_V[:22], universal.is_universal_trained())


def test_a_night_that_is_run_again_starts_where_it_started(world: World) -> None:
    universal = world.universal(FIRST)
    first = world.targeted(FIRST, universal)
    world.add_day([6, 8], FIRST + DAY)
    once = world.targeted(FIRST + DAY, universal, previous=first)
    assert newest_before(once, FIRST + DAY) == first
    assert world.targeted(FIRST + DAY, universal, previous=once).model_version == once.model_version
    assert newest_before(first, FIRST) is None


def test_a_day_without_events_keeps_the_checkpoint_and_says_so(world: World) -> None:
    universal = world.universal(FIRST)
    first = world.targeted(FIRST, universal)
    with pytest.raises(NothingNewError, match=f"has 0 train windows since 1970-01-12 13:46.*{universal.model_version}"):
        world.universal(FIRST + DAY, parent=universal)
    for every in (0, 1):
        with pytest.raises(NothingNewError, match=f"{first.model_version} stays in use"):
            world.targeted(FIRST + DAY, universal, first, tiny_targeted(warm_up_every_days=every))


def test_models_of_other_sizes_do_not_go_on(world: World, tmp_path: Path) -> None:
    universal = world.universal(FIRST)
    first = world.targeted(FIRST, universal)
    elsewhere = TrainingInputs(
        windows=world.windows,
        catalog=world_catalog(),
        out=tmp_path / "other",
        seed=5,
        versions={},
        as_of=FIRST + DAY,
    )
    wider = train_universal(
        elsewhere,
        model_config=tiny_model(head_width=9),
        config=tiny_universal(epochs=0),
    )
    with pytest.raises(CheckpointError, match=r"model.head_width 8 and 9; run one night with .*warm_up_every_days=1"):
        world.targeted(FIRST + DAY, wider, first, tiny_targeted(warm_up_every_days=0))
    anew = night_start(tiny_targeted(), wider, first, world_catalog(), FIRST + DAY, seed=5)
    assert not anew.kept and anew.notes == (f"the head of {first.model_version} has other sizes: it starts anew",)
    with pytest.raises(
        CheckpointError, match=r"the configuration differ in .*; run one night with universal.start=scratch"
    ):
        train_universal(
            elsewhere,
            model_config=tiny_model(head_width=9),
            config=tiny_universal(),
            parent=universal,
        )


def test_exposure_by_brute_force(spark: SparkSession, world: World) -> None:
    checkpoint = world.universal(FIRST)
    trained = {index for index, count in enumerate(checkpoint.item_frequencies().tolist()) if count}
    rng = np.random.default_rng(3)
    rows = [(int(index), int(rng.integers(1, 9))) for index in rng.permutation(np.arange(2, 40))[:25]]
    frame = spark.createDataFrame([*rows, (None, 4)], "item_index int, exposures long")
    exposure = exposure_of(frame, checkpoint)
    untrained = [(index, count) for index, count in [*rows, (None, 4)] if index not in trained]
    assert (exposure.exposed_items, exposure.untrained_items) == (26, len(untrained))
    assert exposure.untrained_exposures == sum(count for _, count in untrained)
    assert exposure.exposures == sum(count for _, count in rows) + 4
    assert exposure.rates == (len(untrained) / 26, exposure.untrained_exposures / exposure.exposures)
    assert exposure_of(frame.limit(0), checkpoint).rates == (None, None)


def test_items_wait_for_their_publication(spark: SparkSession) -> None:
    rows = [("old", FIRST - DAY), ("now", FIRST), ("new", FIRST + DAY), ("always", None)]
    items = spark.createDataFrame(rows, f"{c.ITEM_ID} string, {c.PUBLISHED_TS} timestamp")
    assert {row[0] for row in published_before(items, FIRST).collect()} == {"old", "always"}
