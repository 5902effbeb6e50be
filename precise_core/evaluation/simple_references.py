"""The simple references of every table of figures, by name; a model has to beat the best of them."""

from __future__ import annotations

from precise_core.evaluation.config import EvaluationConfig
from precise_core.evaluation.ease import Ease
from precise_core.evaluation.names import (
    ALL_TIME,
    EASE,
    ITEM_KNN,
    LAST_ITEM_KNN,
    MOST_POPULAR,
    OWN_DECAYED,
    PERSONAL_FREQUENCY,
    TIFU_KNN,
    USER_KNN,
)
from precise_core.evaluation.neighbour_references import ItemKnn, TifuKnn, UserKnn
from precise_core.evaluation.references import MostPopular, OwnDecayed, PersonalFrequency, Scorer, TrainingLog


def build_references(log: TrainingLog, config: EvaluationConfig, *, as_of_seconds: int) -> dict[str, Scorer]:
    """The references by their names in the tables; those of recently popular items have their days in the name."""
    nearest, among, days = config.neighbours, config.neighbour_users, config.decay_days
    found: dict[str, Scorer] = {
        MOST_POPULAR.format(days=popular_days): MostPopular(log, days=popular_days, as_of_seconds=as_of_seconds)
        for popular_days in config.popular_days
    }
    found |= {
        ALL_TIME: MostPopular(log),
        PERSONAL_FREQUENCY: PersonalFrequency(log),
        OWN_DECAYED: OwnDecayed(log, as_of_seconds=as_of_seconds, days=days),
        ITEM_KNN: ItemKnn(log, shrinkage=config.knn_shrinkage, history=config.knn_history),
        LAST_ITEM_KNN: ItemKnn(log, shrinkage=config.knn_shrinkage, history=1),
        USER_KNN: UserKnn(log, shrinkage=config.knn_shrinkage, neighbours=nearest, neighbour_users=among),
        TIFU_KNN: TifuKnn(
            log,
            as_of_seconds=as_of_seconds,
            days=days,
            own_share=config.own_share,
            neighbours=nearest,
            neighbour_users=among,
        ),
        EASE: Ease(log, items=config.ease_items, penalty=config.ease_penalty),
    }
    return found
