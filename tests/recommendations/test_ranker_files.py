"""What was learned as a folder: the same to the bit, refused where it was changed; and what is learned next day."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precise_core.errors import CheckpointError, NothingToLearnError
from precise_core.recommendations.config import ListConfig, ListRankerConfig, RecommendationsConfig
from precise_core.recommendations.learning import learn, split_lists
from precise_core.recommendations.lists import CandidateLists
from precise_core.recommendations.orders import ORDERS, order_scores
from precise_core.recommendations.ranker_files import FinishedOrders, PublishedRanker
from precise_core.store.sums import write_sums
from schemas import columns as c
from tests.recommendations.ranked_lists import candidate_lists, rows, small

TRAIN, HELD_OUT, TEST = candidate_lists(1, lists=200), candidate_lists(2, lists=30), candidate_lists(3, lists=30)
ABOUT = {"as_of": "2024-03-01T00:00:00Z", "held_out_by": 17, "held_out_share": 0.2}
LISTS = {"all": ListConfig(), "new": ListConfig(repeat="exclude")}


def learned(
    out: Path,
    train: CandidateLists = TRAIN,
    previous: PublishedRanker | None = None,
    said: list[str] | None = None,
    about: Mapping[str, object] | None = None,
    **ranker: object,
) -> PublishedRanker:
    settings, tell = RecommendationsConfig(k=5, lists=LISTS, ranker=small(**ranker)), [] if said is None else said
    return learn(train, HELD_OUT, settings, previous, 0, out, ABOUT | dict(about or {}), tell.append)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRanker:
    return learned(tmp_path_factory.mktemp("rankers"), losses=("list", "binary"), models=2, epochs=6)


def scores(ranker: PublishedRanker, task: str = "buy", name: str = "all") -> np.ndarray:
    return ranker.scores(task, name, TEST.features_CG, TEST.precise_C2)


def of_yesterday(ranker: PublishedRanker, published: PublishedRanker) -> np.ndarray:
    """Scores by the order that the ranker has from the one that was published before."""
    name = ranker.chosen["buy"]["all"].removeprefix("previous.")
    return published.rankers[name].scores(TEST.features_CG, TEST.precise_C2, "buy")


def test_a_ranker_that_was_written_and_opened_gives_the_same_scores_to_the_bit(published: PublishedRanker) -> None:
    opened = PublishedRanker.open(published.folder)
    assert set(opened.chosen["buy"].values()) <= opened.rankers.keys()
    for name in LISTS:
        assert scores(opened, name=name).tobytes() == scores(published, name=name).tobytes()
    found = scores(opened)
    probabilities = opened.probabilities("buy", "all", found)
    assert probabilities is not None and ((probabilities > 0) & (probabilities < 1)).all()
    assert (np.argsort(probabilities, kind="stable") == np.argsort(found, kind="stable")).all()
    assert opened.label("buy", "all").startswith(f"{published.folder.name}/")
    assert opened.about == ABOUT


def test_the_same_training_has_the_same_version_and_may_be_written_again(tmp_path: Path) -> None:
    first, second = (learned(tmp_path, epochs=1) for _ in range(2))
    assert first.ranker_version == second.ranker_version
    assert learned(tmp_path, epochs=1, train=candidate_lists(9)).ranker_version != first.ranker_version


def test_a_changed_byte_is_refused(published: PublishedRanker, tmp_path: Path) -> None:
    for changed in published.folder.iterdir():
        folder = tmp_path / changed.name
        folder.mkdir()
        for file in published.folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        content = bytearray(changed.read_bytes())
        content[len(content) // 2] ^= 1
        (folder / changed.name).write_bytes(content)
        with pytest.raises(CheckpointError):
            PublishedRanker.open(folder)
        (folder / changed.name).unlink()
        with pytest.raises(CheckpointError):
            PublishedRanker.open(folder)


def rewritten(published: PublishedRanker, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The folder as another version of the code might have written it: whole, but with something else in it."""
    for file in published.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    meta = json.loads((folder / "list_ranker.json").read_text())
    change(meta)
    (folder / "list_ranker.json").write_text(json.dumps(meta))
    write_sums(folder)
    return folder


def _each(meta: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> None:
    for about in meta["orders"].values():
        change(about)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda meta: meta.update(features=meta["features"][::-1]), "the model reads .* features"),
        (
            lambda meta: _each(meta, lambda about: about.pop("sizes")),
            "list_ranker.json: no 'sizes', .*version of",
        ),
        (lambda meta: meta.pop("calibration"), "list_ranker.json: no 'calibration'"),
        (lambda meta: _each(meta, lambda about: about["sizes"].update(cross_layers=9)), "does not fit this version"),
        (lambda meta: _each(meta, lambda about: about["sizes"].update(experts=9)), "does not fit this version"),
        (lambda meta: _each(meta, lambda about: about.update(models=99)), "does not fit this version"),
    ],
)
def test_a_ranker_of_another_version_of_the_code_is_refused_in_one_line(
    published: PublishedRanker, tmp_path: Path, change: Callable[[dict[str, Any]], object], why: str
) -> None:
    folder = rewritten(published, tmp_path, change)
    with pytest.raises(CheckpointError, match=f"{why}.*; run jobs/train_list_ranker.py$") as refused:
        PublishedRanker.open(folder)
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)


def test_settings_of_training_that_are_no_more_do_not_matter(published: PublishedRanker, tmp_path: Path) -> None:
    folder = rewritten(published, tmp_path, lambda meta: meta["ranker"].update(forgotten=3))
    assert scores(PublishedRanker.open(folder)).tobytes() == scores(published).tobytes()


def test_a_list_that_was_not_judged_is_by_the_users_own_history(published: PublishedRanker) -> None:
    for task, name in (("buy", "unknown list"), ("unknown task", "all")):
        expected = order_scores("own_and_similar_users", TEST.features_CG)
        assert scores(published, task, name).tolist() == expected.tolist()
        assert published.probabilities(task, name, expected) is None
        assert published.label(task, name) == "own_and_similar_users"


def test_a_learned_order_that_is_worse_is_not_published(tmp_path: Path) -> None:
    """It learns the opposite of what the held-out users do: a simple order is better."""
    inverse = 1 - TRAIN.labels_C
    ranker = learned(tmp_path, train=CandidateLists(**{**vars(TRAIN), "labels_C": inverse}), epochs=4, patience=4)
    assert set(ranker.chosen["buy"].values()) <= set(ORDERS)
    assert ranker.label("buy", "all") in ORDERS
    assert ranker.probabilities("buy", "all", scores(ranker)) is None


def test_yesterdays_better_order_is_kept_for_days(published: PublishedRanker, tmp_path: Path) -> None:
    noise = CandidateLists(**{**vars(TRAIN), "labels_C": np.random.default_rng(0).permutation(TRAIN.labels_C)})
    ranker = published
    for day in range(2):
        ranker = learned(tmp_path / str(day), train=noise, previous=ranker, epochs=1, models=2)
        assert set(ranker.chosen["buy"].values()) <= {f"previous.{name}" for name in published.rankers}
        np.testing.assert_array_equal(scores(ranker), of_yesterday(ranker, published))


def test_yesterdays_order_is_kept_though_the_sizes_in_the_configuration_changed(
    published: PublishedRanker, tmp_path: Path
) -> None:
    ranker = learned(tmp_path, candidate_lists(8, lists=8), published, epochs=1, deep_widths=(4, 3), cross_layers=1)
    assert ranker.chosen["buy"]["all"].startswith("previous.")
    np.testing.assert_array_equal(scores(ranker), of_yesterday(ranker, published))


def test_a_worse_order_of_yesterday_is_replaced(tmp_path: Path) -> None:
    bad = learned(tmp_path, train=candidate_lists(7, lists=4), epochs=1)
    good = learned(tmp_path, previous=bad, epochs=6)
    assert not any(name.startswith("previous") or name in ORDERS for name in good.chosen["buy"].values())


@pytest.mark.parametrize(
    ("tonight", "why"),
    [
        ({"as_of": "2024-02-28T00:00:00Z"}, "is of a later night and no rival"),
        ({"held_out_by": 18}, "had other held-out users and is no rival"),
        ({"held_out_share": 0.21}, "had other held-out users and is no rival"),
    ],
)
def test_what_may_have_learned_from_todays_held_out_users_is_no_rival(
    published: PublishedRanker, tmp_path: Path, tonight: dict[str, object], why: str
) -> None:
    said: list[str] = []
    noise = CandidateLists(**{**vars(TRAIN), "labels_C": np.random.default_rng(0).permutation(TRAIN.labels_C)})
    ranker = learned(tmp_path, noise, published, said, tonight, epochs=1)
    assert f"{published.ranker_version} {why}" in said
    assert not any(name.startswith("previous") for name in ranker.rankers)


def test_an_interrupted_training_goes_on_after_the_last_finished_order(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def until_the_second(line: str) -> None:
        if line.startswith("binary: epoch 2"):
            raise Killed

    settings = RecommendationsConfig(k=5, lists=LISTS, ranker=small(losses=("list", "binary"), epochs=2, patience=2))

    def train(out: Path, say: Callable[[str], None], seed: int = 0) -> PublishedRanker:
        return learn(TRAIN, HELD_OUT, settings, None, seed, out, {"rows": 7}, say)

    with pytest.raises(Killed):
        train(tmp_path / "again", until_the_second)
    other: list[str] = []
    train(tmp_path / "again", other.append, seed=1)
    assert not any("interrupted" in line for line in other)  # not of the same training
    said: list[str] = []
    again, whole = train(tmp_path / "again", said.append), train(tmp_path / "whole", print)
    assert [line for line in said if "interrupted" in line] == ["list: learned before this training was interrupted"]
    assert any(line.startswith("binary: epoch 1") for line in said)
    assert again.ranker_version == whole.ranker_version
    assert not list((tmp_path / "again").glob(".*"))


def test_a_damaged_finished_order_is_learned_again(tmp_path: Path) -> None:
    ranker = learned(tmp_path / "of", epochs=1)
    kept = FinishedOrders(tmp_path, {"rows": 7})
    kept.put("list", next(iter(ranker.rankers.values())))
    assert kept.get("list") is not None and kept.get("binary") is None
    for file in tmp_path.glob(".*/*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-2] ^= 1
        file.write_bytes(content)
    assert kept.get("list") is None


def test_rows_are_split_into_lists_to_learn_from_and_held_out_ones() -> None:
    table = rows(1, lists=10, candidates=5)
    users = table[c.USER_ID].to_pylist()
    split = [c.VALIDATION if user.endswith(("1", "3")) else c.TRAIN for user in users]
    train, held_out = split_lists(table.append_column(c.SPLIT, [split]))
    assert set(held_out.users) == {"1-001", "1-003"} and len(train) + len(held_out) == 10
    assert not set(train.users) & set(held_out.users)


def test_of_few_users_each_is_judged_by_models_that_have_not_learned_from_them(tmp_path: Path) -> None:
    """What is taken is noise that only the user's own lists tell: known by heart, it would be found."""
    lists = candidate_lists(1, lists=20, tasks=("all",))
    noise = CandidateLists(**{**vars(lists), "labels_C": np.random.default_rng(0).permutation(lists.labels_C)})
    nobody = lists.where(np.zeros(len(lists), bool))
    settings = RecommendationsConfig(
        k=5, lists={"all": ListConfig()}, ranker=small(epochs=60, deep_widths=(64,), losses=("list",))
    )
    ranker = learn(nobody, noise, settings, None, 0, tmp_path, {"held_out_share": 0.0}, print)
    by_heart = noise.ndcg(ranker.rankers["list"].scores_of(noise), 5).mean()
    in_turn = ranker.figures["ndcg"]["all"]["all"]["list"]
    chance = noise.ndcg(np.random.default_rng(1).random(len(noise.labels_C)), 5).mean()
    assert by_heart > 0.6 and abs(in_turn - chance) < 0.15
    assert len(ranker.rankers["list"].models) == 5 and not any(name.startswith("per_task") for name in ranker.rankers)


def test_what_all_were_learned_from_is_no_rival_of_a_night_that_holds_some_out(tmp_path: Path) -> None:
    nobody = TRAIN.where(np.zeros(len(TRAIN), bool))
    settings = RecommendationsConfig(k=5, lists=LISTS, ranker=small(epochs=1, losses=("list",)))
    before = learn(nobody, HELD_OUT, settings, None, 0, tmp_path, ABOUT | {"held_out_share": 0.0}, print)
    said: list[str] = []
    learned(tmp_path, previous=before, said=said, epochs=1)
    learned(tmp_path, nobody, before, said, {"held_out_share": 0.0}, epochs=1)
    assert said.count(f"{before.ranker_version} had other held-out users and is no rival") == 2


def test_of_one_taker_nobody_can_be_held_out_in_turn(tmp_path: Path) -> None:
    lists = candidate_lists(1, lists=6, tasks=("all",))
    labels_C = np.where(lists.list_rows_C == 0, lists.labels_C, 0)
    nobody, one = lists.where(np.zeros(len(lists), bool)), CandidateLists(**{**vars(lists), "labels_C": labels_C})
    settings = RecommendationsConfig(k=5, lists=LISTS, ranker=small(epochs=1))
    with pytest.raises(NothingToLearnError, match="something was taken of 1 users; two are needed"):
        learn(nobody, one, settings, None, 0, tmp_path, {"held_out_share": 0.0}, print)


@pytest.mark.parametrize(
    ("users", "takers", "share"), [(499, 499, 1), (500, 500, 0.2), (600, 240, 1), (10_000, 10, 0.1), (0, 0, 1)]
)
def test_all_are_held_out_in_turn_where_a_fifth_of_the_takers_is_too_few(users: int, takers: int, share: float) -> None:
    assert ListRankerConfig().held_out_share(users, takers) == share
