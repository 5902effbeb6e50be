"""One vector space across retrains: what the map leaves alone, when it is kept, and where it comes from."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.artefacts import CHECKPOINTS
from precise_core.consume.publications import vector_space
from precise_core.errors import CheckpointError, ModelError
from precise_core.store.sums import write_sums
from precise_core.training.alignment import fit_alignment, orthogonal_map, refusal
from precise_core.training.checkpoint import Alignment, Checkpoint
from precise_core.training.config import AlignmentConfig
from precise_core.training.setup import TrainingInputs
from precise_core.training.spaces import earlier_in_time
from precise_core.training.targeted import train_targeted
from precise_core.training.universal import train_universal
from precise_core.vectors.encoding import encode_catalog, encode_users, load_encoder
from tests.torch_world import (
    ARROW,
    LENGTH,
    NUM_ITEMS,
    encoder_sizes,
    tiny_model,
    tiny_targeted,
    tiny_universal,
    world_catalog,
    world_snapshot,
)
from tests.training.test_checkpoints import make_model, write

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
# The toy world has 20 items: enough to fit vectors of width 8 to, too few to ask for much.
ANY = AlignmentConfig(
    enabled=True,
    least_events=1,
    least_items=4,
    smallest_cosine=-1.0,
    largest_residual=9.0,
    smallest_neighbour_overlap=0.0,
)
MODEL = tiny_model("id", encoder=encoder_sizes("transformer", layers=1))
HALVES = tiny_model("pool", late_fusion=True).model_copy(
    update={"fusion": tiny_model("pool").fusion.model_copy(update={"id_width": 4, "token_width": 4})}
)
HISTORIES = [np.arange(2, 2 + length) for length in range(1, LENGTH + 1)]


def turn(rng: np.random.Generator, width: int) -> np.ndarray:
    return np.asarray(np.linalg.qr(rng.normal(size=(width, width)))[0])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.lists(st.integers(1, 12), min_size=1, max_size=2))
def test_the_fit_finds_the_map_and_no_score_changes(seed: int, widths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    width, ours = sum(widths), rng.normal(size=(150, sum(widths))).astype(np.float32)
    true_DD, start = np.zeros((width, width)), 0
    for part in widths:
        true_DD[start : start + part, start : start + part] = turn(rng, part)
        start += part
    fit = fit_alignment(ours, ours @ true_DD, rng.integers(1, 99, 150), widths, seed)
    np.testing.assert_allclose(fit.map_DD, true_DD, atol=1e-4)
    assert (fit.fitted, fit.held_out, fit.map_DD.dtype) == (75, 75, np.float32)
    assert fit.figures["cosine"] == pytest.approx(1) and fit.figures["residual"] < 1e-4
    assert fit.figures["neighbour_overlap"] > 0.99
    users = rng.normal(size=(9, width)).astype(np.float32)
    before, after = users @ ours.T, (users @ fit.map_DD) @ (ours @ fit.map_DD).T
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_items_with_more_events_count_more() -> None:
    rng = np.random.default_rng(0)
    ours, seldom = rng.normal(size=(40, 4)), np.arange(40) % 2 == 0
    often_DD, seldom_DD = turn(rng, 4), turn(rng, 4)
    theirs = np.where(seldom[:, None], ours @ seldom_DD, ours @ often_DD)
    found = orthogonal_map(ours, theirs, np.where(seldom, 1e-9, 1.0), [4])
    np.testing.assert_allclose(found, often_DD, atol=1e-5)


def test_what_cannot_be_fitted_is_refused() -> None:
    ours, ones = np.ones((8, 2)), np.ones(8)
    broken = ours.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        orthogonal_map(ours, broken, ones, [2])
    with pytest.raises(ModelError, match=r"\(8, 2\) and \(8, 3\).*the same items in the same width"):
        orthogonal_map(ours, np.ones((8, 3)), ones, [2])
    with pytest.raises(ModelError, match="3 items are too few"):
        fit_alignment(ours[:3], ours[:3], ones[:3], [2], 0)


@pytest.mark.parametrize(
    ("figure", "value", "words"),
    [
        ("cosine", 0.4, "cosine 0.400 is below alignment.smallest_cosine 0.5"),
        ("residual", 1.5, "residual 1.500 is above alignment.largest_residual 1"),
        ("neighbour_overlap", 0.0, "neighbour overlap 0.000 is below alignment.smallest_neighbour_overlap 0.1"),
        ("cosine", float("nan"), "not finite"),
    ],
)
def test_the_gate_names_the_figure_and_its_limit(figure: str, value: float, words: str) -> None:
    good = {"cosine_before": 0.0, "cosine": 0.9, "residual": 0.3, "neighbour_overlap": 0.6}
    assert refusal(good, AlignmentConfig()) is None
    assert words in str(refusal(good | {figure: value}, AlignmentConfig()))


def test_a_map_is_part_of_its_checkpoint(tmp_path: Path) -> None:
    model = make_model()
    map_DD = torch.from_numpy(turn(np.random.default_rng(1), model.width)).float()
    plain, kept = write(tmp_path, model), Alignment(anchor="a")
    checkpoint = write(tmp_path, model, space_map_DD=map_DD, alignment=kept, space="a", anchor="a")
    assert checkpoint.model_version != plain.model_version  # the same weights have other vectors
    loaded = checkpoint.load_model(mapped=True)
    assert loaded.space_map_DD is not None and torch.equal(loaded.space_map_DD, map_DD)
    assert loaded.state_dict().keys() == plain.load_model().state_dict().keys()
    file = checkpoint.folder / "alignment.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"alignment.safetensors: changed"):
        Checkpoint.open(checkpoint.folder)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"alignment.safetensors: missing"):
        Checkpoint.open(checkpoint.folder)
    write_sums(checkpoint.folder)
    with pytest.raises(CheckpointError, match="the map and the manifest differ, there is none"):
        Checkpoint.open(checkpoint.folder)


def test_a_map_that_would_change_scores_is_refused(tmp_path: Path) -> None:
    model = make_model()
    broken = write(tmp_path, model, space_map_DD=2 * torch.eye(model.width), alignment=Alignment(anchor="a"))
    with pytest.raises(CheckpointError, match=f"not an orthogonal map of vectors of width {model.width}"):
        broken.load_model()


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> TrainingInputs:
    """The same windows every night: only the seed makes another model of them."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("nights")
    return TrainingInputs(
        windows=world_snapshot(folder / "training_windows", ("all", "click"), train=120),
        catalog=world_catalog(),
        out=folder / CHECKPOINTS,
        seed=1,
        versions={},
        as_of=FIRST,
        alignment=ANY,
        feed_config=ARROW,
    )


def night(inputs: TrainingInputs, number: int, limits: AlignmentConfig = ANY) -> TrainingInputs:
    return replace(inputs, seed=1 + number, as_of=FIRST + number * DAY, alignment=limits)


@pytest.mark.parametrize("model", [MODEL, HALVES], ids=["one part", "two halves"])
def test_a_training_from_scratch_stays_in_the_space_of_the_first(nights: TrainingInputs, model) -> None:  # type: ignore[no-untyped-def]
    config = tiny_universal(epochs=1)
    first = train_universal(nights, model, config)
    second = train_universal(night(nights, 1), model, config, earlier=first)
    third = train_universal(night(nights, 2), model, config, earlier=second)
    assert not first.manifest.is_aligned and not (first.folder / "alignment.safetensors").exists()
    for checkpoint in (second, third):
        found = checkpoint.manifest.alignment
        assert found is not None and found.anchor == checkpoint.manifest.anchor_version == first.model_version
        assert found.items_fitted == NUM_ITEMS // 2 and set(found.figures) >= {"cosine", "cosine_before", "residual"}
        assert vector_space(nights.out.parent, checkpoint.model_version) == first.model_version
        assert checkpoint.manifest.basis_version == checkpoint.model_version
        assert "in the vector space of" in checkpoint.manifest.notes[-1]
    # What is served: the vectors of the weights, turned; scores and best items as they were.
    rows = np.arange(2, NUM_ITEMS + 2)
    _, served = load_encoder(third.folder)
    raw, map_DD = third.load_model(), third.space_map()
    raw.space_map_DD = None
    assert map_DD is not None
    if model is HALVES:
        assert not map_DD[:4, 4:].any() and not map_DD[4:, :4].any()
    items = [encode_catalog(one, nights.catalog, rows) for one in (raw, served)]
    users = [encode_users(one, nights.catalog, HISTORIES, LENGTH) for one in (raw, served)]
    np.testing.assert_allclose(items[0] @ map_DD.numpy(), items[1], atol=1e-6)
    np.testing.assert_allclose(users[0] @ map_DD.numpy(), users[1], atol=1e-6)
    scores, turned = users[0] @ items[0].T, users[1] @ items[1].T
    np.testing.assert_allclose(turned, scores, atol=1e-5)
    best = np.take_along_axis(scores, np.argsort(-turned)[:, :5], axis=1)
    np.testing.assert_allclose(best, -np.sort(-scores)[:, :5], atol=1e-5)  # equal top 5, up to ties


def test_beyond_a_limit_a_space_is_opened_and_it_is_said(nights: TrainingInputs) -> None:
    config = tiny_universal(epochs=1)
    first = train_universal(nights, MODEL, config)
    strict = ANY.model_copy(update={"smallest_cosine": 1.0})
    second = train_universal(night(nights, 1, strict), MODEL, config, earlier=first)
    assert second.manifest.vector_space == second.model_version and second.space_map() is None
    assert f"NEW VECTOR SPACE, not that of {first.model_version}: cosine 0." in second.manifest.notes[-1]
    for limits, model, words in (
        (
            AlignmentConfig(enabled=True),
            MODEL,
            "100 are needed",
        ),  # the defaults ask for more items than the toy world has
        (ANY, HALVES, r"widths \[4, 4\], those of universal-all-\w+ have \[8\]"),  # another width
    ):
        other = train_universal(night(nights, 1, limits), model, config, earlier=first)
        assert other.manifest.vector_space == other.model_version
        assert re.search(words, other.manifest.notes[-1])
    off = train_universal(night(nights, 1, AlignmentConfig(enabled=False)), MODEL, config, earlier=first)
    assert off.model_version == second.model_version and off.manifest.notes == ()
    later = train_universal(night(nights, 2), MODEL, config, earlier=second)  # the new space has an anchor of its own
    assert later.manifest.vector_space == later.manifest.anchor_version == second.model_version


def test_a_lost_anchor_opens_a_space(nights: TrainingInputs, tmp_path: Path) -> None:
    inputs = replace(night(nights, 1), out=tmp_path)
    orphan = write(tmp_path, anchor="universal-all-gone", space="universal-all-gone", as_of=FIRST)
    checkpoint = train_universal(inputs, MODEL, tiny_universal(epochs=1), earlier=orphan)
    assert checkpoint.manifest.vector_space == checkpoint.model_version
    assert "universal-all-gone: no such folder" in checkpoint.manifest.notes[-1]


def test_what_goes_on_keeps_the_map(nights: TrainingInputs) -> None:
    config = tiny_universal(epochs=1)
    first = train_universal(nights, MODEL, config)
    second = train_universal(night(nights, 1), MODEL, config, earlier=first)
    since_forever = replace(
        second, manifest=second.manifest.model_copy(update={"as_of": datetime(1970, 1, 1, tzinfo=UTC)})
    )
    went_on = train_universal(night(nights, 2), MODEL, tiny_universal(epochs=3), parent=since_forever)
    assert went_on.manifest.basis_version == second.model_version
    assert went_on.manifest.vector_space == went_on.manifest.anchor_version == first.model_version
    assert torch.equal(went_on.space_map(), second.space_map())  # type: ignore[arg-type]


def test_a_task_has_an_anchor_and_a_map_of_its_own(nights: TrainingInputs) -> None:
    universal, targeted = tiny_universal(epochs=1), tiny_targeted(epochs=1)
    clicks = replace(nights, task="click")
    first = train_universal(nights, MODEL, universal)
    clicked = train_targeted(clicks, targeted, first)
    second = train_universal(night(nights, 1), MODEL, universal, earlier=first)
    aligned = train_targeted(night(clicks, 1), targeted, second, clicked, earlier=clicked)
    assert clicked.manifest.vector_space == aligned.manifest.vector_space == f"click/{first.model_version}"
    assert aligned.manifest.anchor_version == clicked.model_version
    assert not torch.equal(aligned.space_map(), second.space_map())  # type: ignore[arg-type]
    strict = ANY.model_copy(update={"smallest_cosine": 1.0})
    refused = train_targeted(night(clicks, 1, strict), targeted, second, clicked, earlier=clicked)
    assert refused.manifest.vector_space == refused.model_version
    # Warmed up from the same universal weights again: its coordinates are those of the night before.
    again = tiny_targeted(epochs=2)
    same_basis = train_targeted(night(clicks, 2, strict), again, second, refused, earlier=refused)
    assert same_basis.manifest.vector_space == refused.model_version and same_basis.space_map() is None


def test_a_night_that_is_run_again_is_compared_with_the_same(nights: TrainingInputs) -> None:
    config, tonight = tiny_universal(epochs=1), night(nights, 1)
    first = train_universal(nights, MODEL, config)
    once = train_universal(tonight, MODEL, config, earlier=earlier_in_time(first, tonight.as_of))
    again = train_universal(tonight, MODEL, config, earlier=earlier_in_time(once, tonight.as_of))
    assert again.model_version == once.model_version and again.manifest == once.manifest
    assert earlier_in_time(once, FIRST) is None and earlier_in_time(None, FIRST) is None
