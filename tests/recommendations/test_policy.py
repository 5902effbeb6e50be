"""What may be on a list, how many of a kind, and in what order: against a walk down the candidates."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from precise_core.recommendations.config import ListConfig
from precise_core.recommendations.policy import listed


@dataclass(frozen=True)
class Candidate:
    user: int
    item: int
    score: float
    is_repeat: bool
    category: int
    text: int


def walk(candidates: list[Candidate], policy: ListConfig, k: int) -> list[Candidate]:
    """One user's list: best first, each if it may have a place beside those that are on the list already."""
    share = Fraction(str(policy.min_new_share))
    most_repeats = k - -((-share * k) // 1)
    on_list: list[Candidate] = []

    def fits(one: Candidate) -> bool:
        same_category = sum(other.category == one.category for other in on_list)
        same_text = sum(other.text == one.text for other in on_list)
        return (
            len(on_list) < k
            and (not one.category or policy.max_per_category is None or same_category < policy.max_per_category)
            and (not one.text or policy.max_per_text is None or same_text < policy.max_per_text)
        )

    allowed = [one for one in candidates if policy.repeat == "allow" or one.is_repeat == (policy.repeat == "only")]
    ordered = sorted(allowed, key=lambda one: (-one.score, one.item))
    gave_way = []
    for one in ordered:
        if one.is_repeat and sum(other.is_repeat for other in on_list) >= most_repeats:
            gave_way.append(one)
        elif fits(one):
            on_list.append(one)
    for one in gave_way:
        if fits(one):
            on_list.append(one)
    return on_list


def by_listed(candidates: list[Candidate], policy: ListConfig, k: int) -> tuple[list[Candidate], list[int]]:
    columns = [np.array([getattr(one, name) for one in candidates]) for name in Candidate.__dataclass_fields__]
    types = (np.int64, np.int64, np.float64, bool, np.int64, np.int64)
    rows, ranks = listed(*(column.astype(kind) for column, kind in zip(columns, types, strict=True)), policy, k)
    return [candidates[row] for row in rows], ranks.tolist()


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        user=st.integers(0, 2),
        item=st.integers(2, 30),
        score=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
        is_repeat=st.booleans(),
        category=st.integers(0, 2),
        text=st.integers(0, 3),
    ),
    max_size=25,
    unique_by=lambda one: (one.user, one.item),
).map(lambda found: sorted(found, key=lambda one: (one.user, one.item)))
_CAP = st.none() | st.integers(1, 3)


@settings(max_examples=300, deadline=None)
@given(
    CANDIDATES,
    st.sampled_from(["allow", "only", "exclude"]),
    _CAP,
    _CAP,
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.sampled_from([1, 2, 5, 40]),
)
@example([Candidate(0, item, 1.0, False, 1, item // 2) for item in (2, 3, 4)], "allow", 2, 1, 0.0, 5)
def test_a_list_is_the_walk_down_the_candidates(
    candidates: list[Candidate], repeat: str, category: int | None, text: int | None, share: float, k: int
) -> None:
    policy = ListConfig(
        repeat=repeat,  # type: ignore[arg-type]
        max_per_category=category,
        max_per_text=text,
        min_new_share=0.0 if repeat == "only" else share,
    )
    found, ranks = by_listed(candidates, policy, k)
    expected = [walk([one for one in candidates if one.user == user], policy, k) for user in range(3)]
    assert found == [one for own in expected for one in own]
    assert ranks == [rank for own in expected for rank in range(1, len(own) + 1)]


@settings(max_examples=60, deadline=None)
@given(CANDIDATES, _CAP, _CAP, st.integers(1, 12))
def test_a_shorter_list_is_the_beginning_of_a_longer_one(
    candidates: list[Candidate], category: int | None, text: int | None, k: int
) -> None:
    policy = ListConfig(max_per_category=category, max_per_text=text)
    long, ranks = by_listed(candidates, policy, 40)
    short, _ = by_listed(candidates, policy, k)
    assert short == [one for one, rank in zip(long, ranks, strict=True) if rank <= k]


def test_an_item_passed_over_for_its_text_takes_no_place_of_its_category() -> None:
    same_text = [Candidate(0, item, 9.0 - item, False, category=1, text=1) for item in (2, 3)]
    other_text = Candidate(0, 4, 1.0, False, category=1, text=2)
    found, _ = by_listed([*same_text, other_text], ListConfig(max_per_category=2, max_per_text=1), 5)
    assert found == [same_text[0], other_text]


def test_a_repeat_that_gave_way_keeps_no_new_item_of_its_kind_off_the_list() -> None:
    repeats = [Candidate(0, item, 9.0 - item, True, category=item, text=0) for item in (2, 3)]
    new = Candidate(0, 9, 0.0, False, category=3, text=0)
    found, _ = by_listed([*repeats, new], ListConfig(max_per_category=1, min_new_share=0.5), 2)
    assert found == [repeats[0], new]


@pytest.mark.parametrize(("share", "k", "new"), [(0.07, 100, 7), (0.28, 50, 14), (0.55, 100, 55), (0.1, 15, 2)])
def test_the_share_of_new_items_is_rounded_up_but_not_beyond(share: float, k: int, new: int) -> None:
    repeats = [Candidate(0, item, 5.0, True, 0, 0) for item in range(2, 202)]
    others = [Candidate(0, item, 1.0, False, 0, 0) for item in range(202, 402)]
    found, _ = by_listed(repeats + others, ListConfig(min_new_share=share), k)
    assert (len(found), sum(not one.is_repeat for one in found)) == (k, new)


def test_nobody_has_candidates() -> None:
    for policy in (ListConfig(), ListConfig(max_per_text=1), ListConfig(min_new_share=0.5)):
        assert by_listed([], policy, 5) == ([], [])
        assert (
            by_listed([Candidate(0, 2, 1.0, True, 0, 0)], policy.model_copy(update={"repeat": "exclude"}), 5)[0] == []
        )


def test_a_list_of_repeats_alone_cannot_promise_new_items() -> None:
    with pytest.raises(ValidationError, match="min_new_share"):
        ListConfig(repeat="only", min_new_share=0.1)
