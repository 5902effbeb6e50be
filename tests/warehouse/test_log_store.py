"""The log store for S3: its jar is that of its source, and a session that has another one is refused."""

from __future__ import annotations

import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from precise_core.config import validated
from precise_core.errors import ConfigError, EnvironmentProblem
from precise_core.warehouse import log_store, session
from precise_core.warehouse.config import SparkConfig
from tests.night import wait_until
from tests.s3_proxy import Harm, harmful_proxy


def test_the_jar_is_that_of_the_source() -> None:
    with zipfile.ZipFile(log_store.JAR) as jar:
        assert jar.read(f"precise/{log_store.SOURCE.name}") == log_store.SOURCE.read_bytes(), (
            "run `python -m precise_core.warehouse.log_store` and `make install-s3`"
        )


@pytest.mark.lake
def test_the_source_builds_the_same_jar_again(tmp_path: Path) -> None:
    log_store.build(tmp_path / "again.jar", session.spark_home())
    assert (tmp_path / "again.jar").read_bytes() == log_store.JAR.read_bytes()


def race(store: str, s3: str, folder: Path, commits: int, *names: str) -> tuple[int, ...]:
    """Processes write one log; commits acknowledged, commits still there when all have ended, refusals."""
    signs = folder / "signs"
    signs.mkdir()
    jars = ":".join(f"{session.spark_home()}/{name}/*" for name in ("jars", "delta-jars", "s3-jars"))
    java = ["java", "-XX:TieredStopAtLevel=1", "-Xmx400m", "-cp", jars, str(Path(__file__).with_name("LogRace.java"))]
    log = f"s3a://lake/{folder.name}/_delta_log"
    writers = [
        subprocess.Popen(
            [*java, store, s3, log, name, str(commits), str(signs)],
            stdout=subprocess.PIPE, stderr=(folder / f"{name}.err").open("w"), text=True,
        )
        for name in names
    ]  # fmt: skip
    try:
        for sign, awaited in (("start", "ready"), ("count", "done")):
            for writer, name in zip(writers, names, strict=True):
                wait_until(writer, (signs / f"{name}.{awaited}").exists)
            (signs / sign).touch()
        said = [writer.communicate(timeout=120)[0] for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    assert all(said), [(folder / f"{name}.err").read_text() for name in names]
    return tuple(map(sum, zip(*(map(int, line.split()) for line in said), strict=True)))


@pytest.mark.lake
def test_of_two_writers_of_a_version_one_is_refused(s3: str, tmp_path: Path) -> None:
    acknowledged, kept, refused = race(log_store.CLASS, s3, tmp_path, 60, "first", "second")
    assert acknowledged == kept == 120 and refused


@pytest.mark.lake
@pytest.mark.parametrize(
    "harm",
    [
        Harm(status=503, code="SlowDown", times=4),
        Harm(status=409, code="ConditionalRequestConflict", times=3),
        Harm(status=0, times=1),  # the commit is made, and nobody is told
    ],
    ids=lambda harm: harm.code if harm.status else "lost answer",
)
def test_a_store_that_hesitates_costs_no_commit(s3: str, tmp_path: Path, harm: Harm) -> None:
    with harmful_proxy(s3, replace(harm, requests=rf"^PUT .*/{5:020}\.json$")) as proxy:
        assert race(log_store.CLASS, proxy.endpoint, tmp_path, 10, "only") == (10, 10, 0)
        assert len(proxy.harmed) == harm.times


@pytest.mark.lake
def test_the_log_store_of_delta_loses_what_it_has_acknowledged(s3: str, tmp_path: Path) -> None:
    """Why ours is needed; where this fails, Delta's has become safe."""
    acknowledged, kept, _ = race("io.delta.storage.S3SingleDriverLogStore", s3, tmp_path, 60, "first", "second")
    assert acknowledged == 120 > kept


class OtherSession:
    """A session that somebody else has started, with a log store or none."""

    def __init__(self, **conf: str) -> None:
        self.sparkContext: Any = self
        self._conf = conf

    def getConf(self) -> dict[str, str]:
        return self._conf


@pytest.mark.parametrize("conf", [{}, {"spark.delta.logStore.s3a.impl": "io.delta.storage.S3SingleDriverLogStore"}])
def test_a_session_that_could_lose_commits_is_refused(conf: dict[str, str]) -> None:
    used = conf.get("spark.delta.logStore.s3a.impl", "the log store of Delta")
    with pytest.raises(EnvironmentProblem, match=f"s3a://b/lake: this Spark session commits by {used}, which loses"):
        session.require_s3(OtherSession(**conf), "s3a://b/lake")  # type: ignore[arg-type]
    session.require_s3(OtherSession(**conf), "/a/local/folder")  # type: ignore[arg-type]


def test_missing_jars_are_said_in_one_line(spark: SparkSession) -> None:
    if (session.spark_home() / "s3-jars").is_dir():
        pytest.skip("this environment has the jars of S3")
    with pytest.raises(EnvironmentProblem, match=r"s3a://b/lake: .* without the jars of S3 .*; run `make install-s3`"):
        session.require_s3(spark, "s3a://b/lake")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("spark.delta.logStore.s3a.impl", "two drivers lose commits"),
        ("spark.hadoop.fs.s3a.secret.key", "kept with every run; set AWS_ACCESS_KEY_ID"),
        ("spark.hadoop.fs.s3a.bucket.lake.access.key", "kept with every run; set AWS_ACCESS_KEY_ID"),
    ],
)
def test_the_log_store_and_secrets_are_no_settings(key: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        validated(SparkConfig, {"conf": {key: "hidden value"}})
    assert "hidden value" not in str(error.value)
