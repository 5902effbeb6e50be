"""A bucket that keeps older versions keeps erased users: it is said, and no promise is made."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

import boto3
import pytest

from precise_core.config import load_config
from precise_core.errors import ConfigError
from precise_core.operations.erasure import require_no_versions
from precise_core.run.job import Job
from precise_core.settings import Settings
from tests.moto_server import s3_server
from tests.night import CONFIG, said


@pytest.fixture(scope="module")
def buckets() -> Iterator[tuple[str, str]]:
    """A bucket that forgets, and one that keeps versions."""
    with s3_server("plain") as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="kept")
        client.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": "Enabled"})
        yield "s3a://plain/lake", "s3a://kept/lake"


def erasing(warehouse: str) -> Job:
    return Job("erase_user", load_config(CONFIG, Settings, [f"warehouse={warehouse}"]), Namespace())


def test_history_is_not_purged_where_the_bucket_keeps_it(
    buckets: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    plain, kept = map(erasing, buckets)
    for is_purged in (True, False):
        require_no_versions(plain, is_purged=is_purged)
    assert said(capsys) == ""
    with pytest.raises(ConfigError, match=r"s3a://kept/lake: its bucket keeps older versions .* suspend versioning"):
        require_no_versions(kept, is_purged=True)
    require_no_versions(kept, is_purged=False)
    assert "warning: warehouse s3a://kept/lake: its bucket keeps older versions" in said(capsys)
