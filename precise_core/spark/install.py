"""Fetch the Delta jars once, and make plain `spark-submit` find them: `python -m precise_core.spark.install`.

Ivy keeps the jars in the home folder, so that jobs start without network. `spark.jars.packages` cannot be set after
spark-submit has started its JVM; the environment's own spark-defaults.conf is where it is read in time.
"""

from importlib import resources
from pathlib import Path

from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

from precise_core.spark.config import SparkConfig
from precise_core.spark.session import get_session


def delta_package() -> str:
    """Maven coordinates of the Delta build for the installed Spark line."""
    builder = configure_spark_with_delta_pip(SparkSession.builder)
    return str(builder._options["spark.jars.packages"])


def write_spark_defaults() -> Path:
    """Name the Delta package in the conf folder of pip's PySpark; returns the file."""
    folder = Path(str(resources.files("pyspark"))) / "conf"
    folder.mkdir(exist_ok=True)
    file = folder / "spark-defaults.conf"
    file.write_text(f"spark.jars.packages {delta_package()}\nspark.driver.memory 4g\nspark.ui.enabled false\n")
    return file


if __name__ == "__main__":
    print(f"wrote {write_spark_defaults().name} with {delta_package()}")
    session = get_session("precise-install", SparkConfig(master="local[1]", driver_memory="1g"))
    print(f"Spark {session.version} with Delta starts")
    session.stop()
