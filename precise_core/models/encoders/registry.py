"""The encoders by name, so that a configuration can choose one and a new one is a file of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from precise_core.errors import ModelError

if TYPE_CHECKING:
    from precise_core.models.encoders.base import SequenceEncoder

ENCODERS: dict[str, type[SequenceEncoder]] = {}
EncoderT = TypeVar("EncoderT", bound="type[SequenceEncoder]")


def register(encoder: EncoderT) -> EncoderT:
    """Decorator: make an encoder available as ``model.encoder.kind``, under the name of its file."""
    kind = encoder.__module__.rsplit(".", 1)[-1]
    if kind in ENCODERS:
        raise ModelError(f"encoder {kind!r} is registered already, as {ENCODERS[kind].__name__}: one encoder a file")
    ENCODERS[kind] = encoder
    return encoder
