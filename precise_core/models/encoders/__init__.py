"""Sequence encoders, one per file: ``model.encoder.kind`` is the name of the file, ``@register`` marks the class.

A new encoder is a new file here, with a subclass of ``SequenceEncoder`` that is marked with ``@register``. The contract
tests (tests/models/test_encoders.py) run for everything that is registered.
"""

import importlib
import pkgutil

from precise_core.models.encoders.base import SequenceEncoder
from precise_core.models.encoders.registry import ENCODERS, register

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["ENCODERS", "SequenceEncoder", "register"]
