"""When users of an evaluation are asked what comes next, for models that read times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from precise_core.config.tasks import TaskConfig
from precise_core.evaluation.config import EvaluationConfig
from precise_core.evaluation.questions import EvaluationInputs, EventArrays, OfflineEvaluation, QuestionSettings
from precise_core.sequences.config import WindowsConfig

AS_OF = 1_000
EVENTS = [  # user, seconds, action; ordered by time
    (0, 100, "view"),
    (0, 150, "view"),
    (1, 200, "view"),
    (0, 250, "buy"),
    (1, 250, "view"),
    (2, 300, "view"),
    (1, 900, "buy"),
    (0, 1_200, "view"),
    (0, 1_500, "buy"),
    (1, 1_700, "view"),
]


def evaluation(split: Literal["time", "leave_one_out"]) -> OfflineEvaluation:
    users, seconds, actions = (np.array(column) for column in zip(*EVENTS, strict=True))
    arrays = EventArrays(
        user_ids=["a", "b", "c"],
        user_rows_E=users,
        item_indices_E=np.arange(2, 2 + len(EVENTS)),
        seconds_E=seconds,
        scenes_E=np.array(["s"] * len(EVENTS)),
        actions_E=actions,
        num_rows=2 + len(EVENTS),
    )
    inputs = EvaluationInputs(arrays, pa.array(["i"]), np.array([2]), {"all": np.zeros(0, np.int64)})
    tasks = {"buy": TaskConfig(action="buy")}
    when = datetime.fromtimestamp(AS_OF, UTC)
    settings = QuestionSettings(when, tasks, EvaluationConfig(), WindowsConfig(split=split), 17)
    return OfflineEvaluation(inputs, settings)


@pytest.mark.parametrize(
    ("split", "at_night", "at_the_target", "at_the_purchase"),
    [
        # Users with a truth are asked at the first of it; user c has none.
        ("time", [1_000, 1_000, 1_000], [1_200, 1_700, 1_000], [1_500, 1_000, 1_000]),
        # After the newest known event by the median gap of 50, 100, 950 and of 50, 650; nobody has three purchases.
        ("leave_one_out", [1_300, 1_000, 400], [1_500, 1_700, 400], [1_300, 1_000, 400]),
    ],
)
def test_users_are_asked_at_the_night_or_when_the_truth_happened(
    split: Literal["time", "leave_one_out"], at_night: list[int], at_the_target: list[int], at_the_purchase: list[int]
) -> None:
    asked = evaluation(split)
    rows, _, seconds = asked.histories("all")
    assert rows.tolist() == [0, 1, 2]
    assert asked.asked(rows, seconds).tolist() == at_night
    assert asked.asked(rows, seconds, target_of="all").tolist() == at_the_target
    assert asked.asked(rows, seconds, target_of="buy").tolist() == at_the_purchase
