"""The base class of every configuration; each config lives beside its owner (`<package>/config.py`)."""

import re
from datetime import date, datetime
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Config(BaseModel):
    """Frozen, validated when built, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


_DAY = r"\d{4}-\d\d-\d\d"
_INSTANT = rf"{_DAY}(?:[Tt ]\d\d:\d\d(?::\d\d(?:\.\d{{1,6}})?)? ?(?:[Zz]|[+-]\d\d:?\d\d)?)?"


def _as_day(value: Any) -> Any:
    """Refuse numbers: pydantic would read 20240310 as seconds since 1970."""
    try:
        if isinstance(value, str) and re.fullmatch(_DAY, value, re.ASCII):
            return date.fromisoformat(value)
    except ValueError:
        pass
    if not isinstance(value, date) or isinstance(value, datetime):
        raise ValueError("a date is needed, e.g. 2024-03-10")
    return value


def _as_instant(value: Any) -> Any:
    """As ``_as_day``; a date alone is its midnight."""
    try:
        if isinstance(value, str) and re.fullmatch(_INSTANT, value, re.ASCII):
            return datetime.fromisoformat(re.sub(r" (?=[-+Zz])", "", value).upper())
    except ValueError:
        pass
    if not isinstance(value, date):
        raise ValueError("a date or an instant is needed, e.g. 2024-03-10, 2024-03-10T06:30:00Z or ...+02:00")
    return value


Day = Annotated[date, BeforeValidator(_as_day)]
Instant = Annotated[datetime, BeforeValidator(_as_instant)]
