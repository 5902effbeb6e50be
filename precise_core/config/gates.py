"""Configuration of the validation gates."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from precise_core.config.base import Config
from schemas import TABLES


class DriftConfig(Config):
    """How far a model's vectors may be from the published ones; `publish_models` refuses one that is further."""

    sample: int = Field(2000, ge=2, description="Items, and users, that are compared: the same ones every night.")
    largest_norm_change: float = Field(
        0.5, gt=0, description="Largest relative change of a decile of the vectors' lengths."
    )
    smallest_cosine: float = Field(
        0.5,
        ge=-1,
        le=1,
        description="Mean cosine to the published vectors; only of a checkpoint that continues the published one.",
    )
    smallest_neighbour_overlap: float = Field(
        0.1, ge=0, le=1, description="Share of an item's ten nearest items of the sample that stay."
    )
    largest_unknown_token_share: float = Field(
        0.2, ge=0, le=1, description="Share of the tokens of all texts that the checkpoint has no vector for."
    )


class ListLimitsConfig(Config):
    """How far tonight's lists may be from the published ones; `recommend` refuses those that are further."""

    sample: int = Field(
        2000, ge=1, description="Users, about, whose first list is compared item by item: the same ones every night."
    )
    largest_lost_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of the users with published lists of a task who have none of it now; hardly anybody loses "
        "them as a log grows.",
    )
    smallest_length_ratio: float = Field(
        0.5,
        ge=0,
        description="Places on a list of a task now, of users who have lists of it now and had them before, over those "
        "before, of the first `recommendations.k`; the smallest of its lists, 0 where `(anybody)` has lost one.",
    )
    smallest_overlap: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Mean share in common (Jaccard) of the first of `recommendations.lists`. 0 = never refused: a new "
        "model, another source or a catalog of news may rightly change all of it; set it where nights are steady.",
    )
    smallest_served_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of the users with an event or an impression who get any list; only where there is a list "
        "for `(anybody)`, that is, where something of the catalog was ever taken.",
    )


class GatesConfig(Config):
    """How strict the gates are. Every check has a level of its own; `levels` overrides it."""

    levels: dict[str, Literal["fail", "warn"]] = Field(
        default_factory=dict, description="`table/expectation/column`, as in `validation_results`, to `fail` or `warn`."
    )
    trailing_days: int = Field(7, ge=1, description="Days that a day's events are compared with.")
    newest_days: int = Field(7, ge=1, description="Days that are compared.")
    largest_volume_ratio: float = Field(
        3.0, gt=1, description="A day with more than so many times the trailing mean is warned of, or with so few."
    )
    smallest_mix_overlap: float = Field(
        0.7, ge=0, le=1, description="Share of scenes and actions that a day must have in common with them."
    )

    largest_rejected_share: float = Field(
        0.9,
        gt=0,
        le=1,
        description="`ingest` refuses a night that rejects more of a table's rows (repeated ones and those of erased "
        "users aside): a wrong setting rejects nearly all, a bad delivery seldom so many; 1 = never.",
    )
    drift: DriftConfig = Field(DriftConfig(), description="Limits of what is published.")
    lists: ListLimitsConfig = Field(ListLimitsConfig(), description="Limits of the lists of recommendations.")

    @field_validator("levels")
    @classmethod
    def _known_tables(cls, value: dict[str, str]) -> dict[str, str]:
        tables = {table.name for table in TABLES}
        for key in value:
            if key.count("/") != 2 or key.partition("/")[0] not in tables:
                raise ValueError(f"{key!r}: must be table/expectation/column; tables are {sorted(tables)}")
        return value
