"""A store of each kind: what holds for a local folder holds for an object store."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from precise_core.store import Store, store_at
from tests.moto_server import s3_server


@pytest.fixture(scope="package")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a bucket, with the environment set so that every client finds it; copies go to a cache of its own."""
    with s3_server("lake") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("PRECISE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield "s3a://lake"


@pytest.fixture(autouse=True)
def _is_no_local_folder() -> Iterator[None]:
    """No test leaves a folder `s3a:` where it runs, as a ``Path`` of a URI would."""
    yield
    assert not Path("s3a:").exists()


@pytest.fixture(params=["folder", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where nothing is yet; a blank, and what other software would read as an escape, belong to its name."""
    if request.param == "folder":
        return str(tmp_path / "ware house")
    return f"{request.getfixturevalue('lake')}/{uuid.uuid4().hex}/ware house"


@pytest.fixture
def store(root: str) -> Store:
    return store_at(root)
