"""An error that a Python worker raised on purpose is one of ours again in the driver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from precise_core import errors

_RAISED = re.compile(r"^precise_core\.errors\.(\w+): (.+)$", re.MULTILINE)


@contextmanager
def raised_as_ours() -> Iterator[None]:
    """Raise what a worker raised, in one line with its reason, instead of Spark's traceback around it."""
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        found = _RAISED.search(str(error))
        kind = getattr(errors, found[1], None) if found else None
        if found is None or kind is None:
            raise
        raise kind(found[2]) from error
