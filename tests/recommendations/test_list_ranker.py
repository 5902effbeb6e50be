"""The model that ranks candidates: what it learns, from what, and that it is the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from precise_core.errors import NothingToLearnError, TrainingError
from precise_core.recommendations.list_ranker import (
    _LOSSES,
    ListInputs,
    ListRanker,
    build_model,
    rows_of,
    train_list_ranker,
)
from precise_core.recommendations.lists import OF_THE_MODEL, CandidateLists
from precise_core.recommendations.orders import ORDERS, order_scores
from precise_core.recommendations.pair_vectors import PairVectors
from schemas.recommendations import FEATURE_NAMES
from tests.recommendations.ranked_lists import candidate_lists, rows, small

TRAIN, HELD_OUT, TEST = candidate_lists(1), candidate_lists(2, lists=30), candidate_lists(3, lists=30)


def trained(loss: str = "list", train: CandidateLists = TRAIN, seed: int = 0, **changes: object) -> ListRanker:
    return train_list_ranker(train, HELD_OUT, small(**changes), loss, k=5, seed=seed)


@pytest.mark.parametrize("loss", ["list", "binary"])
def test_a_planted_signal_is_learned(loss: str) -> None:
    learned = TEST.ndcg(trained(loss, candidate_lists(1, lists=200)).scores_of(TEST), 5).mean()
    chance = np.mean([TEST.ndcg(np.random.default_rng(n).random(len(TEST.labels_C)), 5).mean() for n in range(20)])
    simple = max(TEST.ndcg(order_scores(name, TEST.features_CG), 5).mean() for name in ORDERS)
    assert learned > 0.7 > max(simple, chance) + 0.3


def test_the_same_seed_gives_the_same_scores_and_another_one_others() -> None:
    first = trained(epochs=2).scores_of(TEST)
    torch.rand(7)  # the seed of the process is not read
    assert trained(epochs=2).scores_of(TEST).tobytes() == first.tobytes()
    assert (trained(epochs=2, seed=1).scores_of(TEST) != first).any()


def test_training_leaves_the_random_numbers_of_the_process_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained(epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_the_order_of_the_rows_changes_nothing() -> None:
    table = rows(1)
    shuffled = CandidateLists.from_arrow(table.take(np.random.default_rng(0).permutation(table.num_rows)))
    found = trained(train=shuffled, epochs=2).scores_of(TEST)
    assert found.tobytes() == trained(epochs=2).scores_of(TEST).tobytes()


def test_a_score_does_not_depend_on_what_else_is_scored() -> None:
    ranker = trained(epochs=1)
    scores = ranker.scores_of(TEST)
    for one in (0, 7, len(TEST) - 1):
        of_one = TEST.where(np.arange(len(TEST)) == one)
        np.testing.assert_allclose(
            ranker.scores_of(of_one), scores[TEST.starts[one] : TEST.starts[one + 1]], rtol=1e-4, atol=1e-5
        )


def test_several_models_are_averaged() -> None:
    both = trained(epochs=1, models=2)
    single = [ListRanker(both.inputs, [model]).scores_of(TEST) for model in both.models]
    assert (single[0] != single[1]).any()
    np.testing.assert_allclose(both.scores_of(TEST), np.mean(single, axis=0), rtol=1e-5, atol=1e-6)
    assert single[0].tobytes() == trained(epochs=1).scores_of(TEST).tobytes()


def test_the_epoch_that_is_best_on_the_held_out_users_is_kept() -> None:
    seen: list[dict[str, float]] = []
    config = small(epochs=6, learning_rate=0.3, patience=5)
    ranker = train_list_ranker(TRAIN, HELD_OUT, config, "list", k=5, seed=3, progress=seen.append)
    assert HELD_OUT.ndcg(ranker.scores_of(HELD_OUT), 5).mean() == max(figures["validation_ndcg"] for figures in seen)
    assert [figures["epoch"] for figures in seen] == list(range(1, len(seen) + 1))


def test_without_anything_taken_there_is_nothing_to_learn() -> None:
    nothing = CandidateLists(**{**vars(TRAIN), "labels_C": np.zeros_like(TRAIN.labels_C)})
    for train, held_out in ((nothing, HELD_OUT), (TRAIN, nothing)):
        with pytest.raises(NothingToLearnError, match=r"of (0|60) training and (30|0) held-out lists"):
            train_list_ranker(train, held_out, small(), "list", k=5, seed=0)


def test_a_loss_that_is_no_number_stops_training() -> None:
    endless = np.where(TRAIN.labels_C > 0, np.float32(np.inf), np.float32(0))
    broken = CandidateLists(**{**vars(TRAIN), "labels_C": endless})
    with pytest.raises(TrainingError, match="learning_rate"):
        train_list_ranker(broken, HELD_OUT, small(), "binary", k=5, seed=0)


def test_lists_of_which_nothing_was_taken_are_not_learned_from() -> None:
    labels = TRAIN.labels_C.copy()
    labels[TRAIN.list_rows_C >= 50] = 0
    some = CandidateLists(**{**vars(TRAIN), "labels_C": labels})
    fewer = TRAIN.where(np.arange(len(TRAIN)) < 50)
    assert trained(train=some, epochs=2).scores_of(TEST).tobytes() == (
        trained(train=fewer, epochs=2).scores_of(TEST).tobytes()
    )


def test_an_unknown_task_and_missing_scores_are_ranked_too() -> None:
    ranker = trained(epochs=1)
    nothing = np.full((len(TEST.labels_C), 2), np.nan, np.float32)
    scores = ranker.scores(TEST.features_CG, nothing, "a task of tomorrow")
    assert np.isfinite(scores).all() and scores.std() > 0
    far = ranker.scores(np.full((1, TEST.features_CG.shape[1]), 1e9, np.float32), nothing[:1], "buy")
    assert np.isfinite(far).all()


def test_a_constant_feature_and_an_absent_score_do_not_divide_by_zero() -> None:
    constant = CandidateLists(
        **{
            **vars(TRAIN),
            "features_CG": np.full_like(TRAIN.features_CG, 0.1),
            "precise_C2": np.full_like(TRAIN.precise_C2, np.nan),
        }
    )
    inputs = ListInputs.fit(constant)
    dense = inputs.tensors(constant.features_CG, constant.precise_C2, np.ones(len(constant.labels_C), np.int64))[1]
    assert torch.isfinite(dense).all() and (dense.abs() < 1e-6).all()


LISTS = st.lists(
    st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=6).filter(
        lambda one: any(label for _, label in one)
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(LISTS, st.sampled_from([0.1, 1.0, 30.0]))
def test_the_loss_of_lists_is_the_plain_softmax(lists: list[list[tuple[int, bool]]], scale: float) -> None:
    logits = torch.tensor([scale * logit for one in lists for logit, _ in one], requires_grad=True)
    labels = torch.tensor([float(label) for one in lists for _, label in one])
    list_of = torch.tensor([number for number, one in enumerate(lists) for _ in one])
    found = _LOSSES["list"](logits, labels, list_of)
    found.backward()  # type: ignore[no-untyped-call]
    expected, gradient = 0.0, []
    for one in lists:
        z = np.array([scale * logit for logit, _ in one])
        p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
        taken = np.array([label for _, label in one])
        weight = 1 / np.sqrt(taken.sum())
        expected -= weight * sum(np.log(np.maximum(p[taken], 1e-300))) / len(lists)
        gradient += list((weight * (p * taken.sum() - taken)) / len(lists))
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(logits.grad, gradient, rtol=1e-3, atol=1e-5)


def test_a_batch_has_all_candidates_of_its_lists() -> None:
    chosen = np.array([4, 0, 9])
    found, list_of = rows_of(TRAIN, chosen)
    for number, one in enumerate(chosen):
        expected = np.arange(TRAIN.starts[one], TRAIN.starts[one + 1])
        np.testing.assert_array_equal(found[list_of == number], expected)


def test_what_was_one_value_in_training_is_never_read() -> None:
    """Of the past instant there may be no vectors; tonight's scores then meet weights that learned nothing."""
    nothing = {"precise_C2": np.full_like(TRAIN.precise_C2, np.nan)}
    features_CG = TRAIN.features_CG.copy()
    features_CG[:, FEATURE_NAMES.index("rank_u2i")] = 0
    ranker = trained(train=CandidateLists(**{**vars(TRAIN), **nothing, "features_CG": features_CG}), epochs=1)
    changed_CG = TEST.features_CG.copy()
    changed_CG[:, FEATURE_NAMES.index("rank_u2i")] = 1
    without = ranker.scores(TEST.features_CG, np.full_like(TEST.precise_C2, np.nan), "all")
    assert ranker.scores(changed_CG, TEST.precise_C2, "all").tobytes() == without.tobytes()


def test_without_precise_neither_its_scores_nor_its_ranks_are_read() -> None:
    ranker = train_list_ranker(TRAIN, HELD_OUT, small(epochs=1), "list", k=5, seed=0, with_precise=False)
    changed_CG = TEST.features_CG.copy()
    changed_CG[:, [FEATURE_NAMES.index(name) for name in OF_THE_MODEL]] += 1
    scores = ranker.scores(TEST.features_CG, TEST.precise_C2, "all")
    assert ranker.scores(changed_CG, TEST.precise_C2 + 1, "all").tobytes() == scores.tobytes()
    assert (trained(epochs=1).scores(changed_CG, TEST.precise_C2 + 1, "all") != scores).any()


def test_vectors_are_learned_from_where_they_alone_tell_what_is_taken() -> None:
    """An item is taken where a coordinate of its vector says so; users' vectors are one for all."""
    train, held_out, test = (with_told_vectors(lists) for lists in (candidate_lists(1, lists=200), HELD_OUT, TEST))

    def ndcg(*, with_vectors: bool) -> float:
        ranker = train_list_ranker(train, held_out, small(epochs=8), "list", k=5, seed=0, with_vectors=with_vectors)
        return float(test.ndcg(ranker.scores_of(test), 5).mean())

    assert ndcg(with_vectors=True) > 0.95 > ndcg(with_vectors=False) + 0.3
    ranker = train_list_ranker(train, held_out, small(epochs=1), "list", k=5, seed=0, with_vectors=True)
    assert np.isfinite(ranker.scores(TEST.features_CG, TEST.precise_C2, "all")).all()  # nobody has a vector


def with_told_vectors(lists: CandidateLists) -> CandidateLists:
    """What is taken has nothing to do with the features any more."""
    random = np.random.default_rng(0)
    labels_C = random.permutation(lists.labels_C)
    items_ID = random.normal(size=(len(labels_C), 3)).astype(np.float32)
    items_ID[:, 0] = labels_C
    rows_C = np.arange(len(items_ID))
    pairs = PairVectors(np.ones((1, 3), np.float32), items_ID, np.zeros_like(rows_C), rows_C)
    return CandidateLists(**{**vars(lists), "labels_C": labels_C, "pairs": pairs})


def test_a_model_has_the_sizes_of_the_configuration() -> None:
    model = build_model(ListInputs.fit(TRAIN), small(cross_layers=3, deep_widths=(7, 5)))
    assert len(model.cross.layers) == 3
    assert [layer.out_features for layer in model.deep if isinstance(layer, torch.nn.Linear)] == [7, 5]
