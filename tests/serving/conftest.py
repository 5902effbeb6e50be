"""What tests of the server share."""

from __future__ import annotations

import pytest

from tests.serving.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A first publication, which no test of the module changes."""
    made = World(tmp_path_factory.mktemp("served"))
    made.publish(0)
    return made
