"""Libraries of the stores: optional, imported when a store is used."""

from __future__ import annotations

import importlib
from typing import Any

from precise_core.errors import EnvironmentProblem


def require_client(module: str, package: str) -> Any:
    """The module of a store's client.

    Raises:
        EnvironmentProblem: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise EnvironmentProblem(
            f"export.{module.removeprefix('py')}: the package {package} is not installed here; "
            "pip install -e '.[export]'"
        ) from error
