"""What a request may hold, checked before anything is looked up."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from precise_core.config.tasks import ALL_TASK

_Text = StringConstraints(min_length=1, max_length=512)
Id = Annotated[str, _Text]
UserId = Annotated[str, _Text, Query(description="External key of the user.")]
ItemId = Annotated[str, _Text, Query(description="External key of the item.")]
Task = Annotated[str, _Text, Query(description="Whose vectors or lists.")]
K = Annotated[int, Query(ge=1, description="Items at most; serving.max_k is the limit.")]
Format = Annotated[
    Literal["json", "float32"], Query(description="JSON, or the vector's bytes: float32, little-endian.")
]
RecommendSource = Annotated[
    Literal["lists", "u2i", "u2i2i"],
    Query(description="The published lists; or candidates of the model, searched for now."),
]


Pair = Annotated[list[Id], Field(min_length=2, max_length=2, description="A user and an item.")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Pairs(_Body):
    """Pairs of user and item to be scored."""

    task: Id = ALL_TASK
    pairs: list[Pair]


class Vector(_Body):
    """A vector of the task's space to search with."""

    task: Id = ALL_TASK
    vector: list[float]
    k: int = 10
