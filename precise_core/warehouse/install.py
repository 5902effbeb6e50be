"""Fetch the jars of Delta and PostgreSQL once, for starts without network: `python -m precise_core.warehouse.install`.

With `--lineage` it fetches the one of OpenLineage, which only `spark.lineage` needs.

The jars are kept beside pip's PySpark and named in its own spark-defaults.conf: `spark.jars.packages` cannot be set
any more once spark-submit has started its JVM, and resolving it again on every start takes seconds.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

from precise_core.warehouse.config import SparkConfig
from precise_core.warehouse.session import (
    DRIVERS,
    LINEAGE,
    get_session,
    has_installed_jars,
    lineage_jar,
    spark_home,
)

_KEPT = ("io.delta_", "io.unitycatalog_", "org.postgresql_")


def packages() -> str:
    """Maven coordinates of the Delta build for the installed Spark line, and of the JDBC drivers."""
    builder = configure_spark_with_delta_pip(SparkSession.builder, extra_packages=list(DRIVERS))
    return str(builder._options["spark.jars.packages"])


def install() -> list[str]:
    """Resolve, copy and name the jars; returns their file names."""
    home = spark_home()
    defaults = home / "conf" / "spark-defaults.conf"
    defaults.unlink(missing_ok=True)
    resolved = _resolved({})

    folder = home / "delta-jars"
    folder.mkdir(exist_ok=True)
    # What Delta brings beside its own and Unity Catalog's jars is in Spark's distribution, in the version Spark needs.
    kept = [Path(shutil.copy2(jar, folder)) for jar in resolved if jar.name.startswith(_KEPT)]
    defaults.parent.mkdir(exist_ok=True)
    defaults.write_text(
        f"spark.jars {','.join(map(str, kept))}\nspark.driver.memory 4g\nspark.ui.enabled false\n", encoding="utf-8"
    )
    return [jar.name for jar in kept]


def install_lineage() -> list[str]:
    """Resolve and copy the jar of OpenLineage, which has all that it needs in itself; returns its file name."""
    target = lineage_jar()
    target.parent.mkdir(exist_ok=True)
    (jar,) = [jar for jar in _resolved({"spark.jars.packages": LINEAGE}) if jar.name == target.name]
    shutil.copy2(jar, target)
    return [target.name]


def _resolved(conf: dict[str, str]) -> list[Path]:
    """Start Spark, which resolves what it is told to need, and stop it."""
    session = get_session("precise-install", SparkConfig(master="local[1]", driver_memory="1g", conf=conf))
    jars = str(session.sparkContext.getConf().get("spark.jars", ""))
    session.stop()
    return [Path(jar.removeprefix("file:")) for jar in jars.split(",")]


if __name__ == "__main__":
    if "--show" in sys.argv:  # for spark-submit.sh: one line each, the second with its flags
        print(spark_home())
        print(*([] if has_installed_jars() else ["--packages", packages()]))
        raise SystemExit
    for name in install_lineage() if "--lineage" in sys.argv else install():
        print(name)
    print(f"jars installed: {has_installed_jars()}")
