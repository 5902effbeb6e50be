"""Configuration of the Spark session and of the maintenance of tables."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from precise_core.config import Config
from precise_core.config.addresses import require_no_secret

_OWN_KEYS = {
    "spark.master": "master",
    "spark.driver.memory": "driver_memory",
    "spark.sql.shuffle.partitions": "shuffle_partitions",
}
S3_LOG_STORE = "spark.delta.logStore.s3a.impl"
_SECRET = re.compile(r"(access|secret)\.key$|session\.token$")  # of S3A, for all buckets or one


class SparkConfig(Config):
    """How the session is started; `--master` on the command line of spark-submit wins over `master`."""

    master: str = Field(
        "local[*]", description="Spark master when a job is started with plain Python; `--master` of spark-submit wins."
    )
    driver_memory: str = Field(
        "4g", pattern=r"^\d+[gm]$", description="Memory of the JVM; fixed by spark-submit where that starts it."
    )
    java: Literal["auto", "light", "full"] = Field(
        "auto",
        description="`light`: Java compiles once and cleans up in one thread, half the CPU time of a night of little "
        "data; `full`: Java's own choice, for rows by the million; `auto`: `light` while source and tables are "
        "below 32 MiB. Under spark-submit: `--driver-java-options`.",
    )
    lineage: str | None = Field(
        None,
        min_length=1,
        description="Where OpenLineage events of every job go: the `http(s)://` address of a server, or a file that "
        "gets a line of JSON an event. Needs `make install-lineage`; each job is a Spark application of its own then.",
    )
    shuffle_partitions: int = Field(
        8, ge=1, description="`spark.sql.shuffle.partitions`; below 32 MiB of source and tables one a core at most."
    )
    conf: dict[str, str] = Field(default_factory=dict, description="Further Spark settings by name.")

    @field_validator("conf")
    @classmethod
    def _not_said_elsewhere(cls, value: dict[str, str]) -> dict[str, str]:
        for key, own in _OWN_KEYS.items():
            if key in value:
                raise ValueError(f"{key} is set by the key spark.{own}, which would win; set that one")
        if S3_LOG_STORE in value:
            raise ValueError(f"{S3_LOG_STORE} is set already: by another log store two drivers lose commits")
        if secret := next(filter(_SECRET.search, value), None):
            raise ValueError(f"{secret} would be kept with every run; set AWS_ACCESS_KEY_ID and the like instead")
        return value

    @model_validator(mode="after")
    def _lineage_holds_no_password(self) -> SparkConfig:
        if self.lineage is not None:
            instead = "Spark's own spark-defaults.conf (spark.openlineage.transport.auth.*)"
            require_no_secret("lineage", self.lineage, instead)
        return self


class TablesConfig(Config):
    """How `maintain_tables` cares for tables, checkpoints and indexes."""

    retention_hours: int = Field(
        168, ge=0, description="A file that no version needs any more is kept this long: how far back one can go."
    )
    min_retention_hours: int = Field(24, ge=0, description="The least that `retention_hours` may be.")
    log_retention_days: int = Field(
        45, ge=1, description="Entries of the tables' logs are kept this long: longer than the lists look back."
    )
    small_file_mib: int = Field(16, ge=1, description="Files below this size are merged.")
    compact_from_files: int = Field(8, ge=2, description="A table is compacted from this many in one partition on.")
    target_file_mib: int = Field(128, ge=1, description="Merged files are at most about this large.")
    keep_artefacts: int = Field(
        7, ge=1, description="Checkpoints, indexes and ranking models of this many trainings of each kind are kept."
    )

    @model_validator(mode="after")
    def _log_outlives_files(self) -> TablesConfig:
        if self.log_retention_days * 24 < self.retention_hours:
            raise ValueError(
                f"log_retention_days {self.log_retention_days} is shorter than retention_hours {self.retention_hours}: "
                "versions whose files are there could not be found any more"
            )
        return self
