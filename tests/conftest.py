"""One Spark session for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from precise_core.warehouse.config import SparkConfig
from precise_core.warehouse.session import get_session, plan_for
from tests.night import run
from tests.s3_server import environment_of, make_bucket, running_s3

# Two processes of tests on two cores: threads of their own would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together on one process what shares a fixture: the tests of the night, and those of a file."""
    for item in items:
        shares_night = "night" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("night" if shares_night else item.path.stem))


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    warehouse = tmp_path_factory.mktemp("spark-warehouse")
    config = SparkConfig(
        master="local[2]",
        driver_memory="2g",
        shuffle_partitions=2,  # five-row frames: more partitions are only overhead
        conf={
            "spark.sql.warehouse.dir": str(warehouse),  # nothing is written into the checkout
            "spark.default.parallelism": "2",
        },
    )
    session = get_session("precise-tests", config, is_light=True)
    plan_for(session, config, data_bytes=0)
    yield session
    session.stop()


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Endpoint of an S3 server with the bucket `lake`, which the environment names from now on.

    To be asked for before ``spark``: a JVM knows the environment that it was started in.
    """
    with running_s3() as endpoint, pytest.MonkeyPatch.context() as patch:
        make_bucket(endpoint, "lake")
        for name, value in environment_of(endpoint).items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture(scope="session")
def s3_spark(s3: str, request: pytest.FixtureRequest) -> SparkSession:
    """The session of the tests, which finds ``s3``."""
    assert s3
    session: SparkSession = request.getfixturevalue("spark")
    return session


@pytest.fixture(scope="session")
def night(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse after one whole night on the small synthetic world; copy it before changing anything."""
    warehouse = tmp_path_factory.mktemp("night") / "warehouse"
    assert spark is not None  # the jobs below find the running session
    assert run("run_night", warehouse) == 0
    return warehouse
