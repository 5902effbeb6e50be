"""Configuration of the Spark session."""

from pydantic import Field

from precise_core.config import Config


class SparkConfig(Config):
    """How the session is started; `--master` on the command line of spark-submit wins over `master`."""

    master: str = "local[*]"
    driver_memory: str = Field("4g", pattern=r"^\d+[gm]$")
    shuffle_partitions: int = Field(8, ge=1)
    conf: dict[str, str] = Field(default_factory=dict)
