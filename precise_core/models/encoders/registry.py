"""The encoders by name, so that a configuration can ask for one and a new one is a file of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from precise_core.errors import ModelError

if TYPE_CHECKING:
    from precise_core.models.encoders.base import SequenceEncoder

ENCODERS: dict[str, type[SequenceEncoder]] = {}
EncoderT = TypeVar("EncoderT", bound="type[SequenceEncoder]")


def register(kind: str) -> Callable[[EncoderT], EncoderT]:
    """Decorator: make an encoder available as ``model.encoder.kind: <kind>``.

    Raises:
        ModelError: The name is taken.
    """

    def remember(encoder: EncoderT) -> EncoderT:
        if kind in ENCODERS:
            raise ModelError(f"encoder {kind!r} is registered already, by {ENCODERS[kind].__module__}")
        ENCODERS[kind] = encoder
        return encoder

    return remember
