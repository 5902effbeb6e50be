"""Fetch the jars of Delta and PostgreSQL once, for starts without network: `python -m precise_core.warehouse.install`.

With `--lineage` it fetches the one of OpenLineage, which only `spark.lineage` needs; with `--s3` those for a warehouse
on S3.

The jars are kept beside pip's PySpark and named in its own spark-defaults.conf: `spark.jars.packages` cannot be set
any more once spark-submit has started its JVM, and resolving it again on every start takes seconds.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from delta import configure_spark_with_delta_pip
from pyspark.sql import SparkSession

from precise_core.errors import EnvironmentProblem
from precise_core.warehouse import log_store
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

# The parts of Amazon's SDK that S3A uses; all of it in one jar, as documented, is fifty times as large.
_SDK = ("s3", "s3-transfer-manager", "sts", "apache-client", "netty-nio-client")
_SDK_VERSION = "2.36.2"
_KEPT_FOR_S3 = ("org.apache.hadoop_hadoop-aws-", "software.amazon.", "org.reactivestreams_")
_HAS_SPARK = (  # in the version it needs
    "software.amazon.awssdk:bundle", "io.netty:*", "org.apache.httpcomponents:*", "org.slf4j:*", "commons-codec:*",
    "commons-logging:*", "org.wildfly.openssl:*",
)  # fmt: skip


def packages() -> str:
    """Maven coordinates of the Delta build for the installed Spark line, and of the JDBC drivers."""
    builder = configure_spark_with_delta_pip(SparkSession.builder, extra_packages=list(DRIVERS))
    return str(builder._options["spark.jars.packages"])


def install() -> list[str]:
    """Resolve, copy and name the jars; returns their file names."""
    _defaults().unlink(missing_ok=True)
    # What Delta brings beside its own and Unity Catalog's jars is in Spark's distribution, in the version Spark needs.
    kept = _kept("delta-jars", [jar for jar in _resolved({}) if jar.name.startswith(_KEPT)])
    _name_jars()
    return kept


def install_s3() -> list[str]:
    """Resolve, copy and name the jars for S3, that of our log store among them; returns their file names.

    Raises:
        EnvironmentProblem: Delta's jars are not there yet.
    """
    if not has_installed_jars():
        raise EnvironmentProblem("the jars of Delta are not installed; run `make install` first")
    (client,) = (spark_home() / "jars").glob("hadoop-client-api-*.jar")
    hadoop = client.stem.rpartition("-")[2]
    packages = [f"org.apache.hadoop:hadoop-aws:{hadoop}"]
    packages += [f"software.amazon.awssdk:{part}:{_SDK_VERSION}" for part in _SDK]
    resolved = _resolved({"spark.jars.packages": ",".join(packages), "spark.jars.excludes": ",".join(_HAS_SPARK)})
    kept = _kept("s3-jars", [*(jar for jar in resolved if jar.name.startswith(_KEPT_FOR_S3)), log_store.JAR])
    _name_jars()
    return kept


def install_lineage() -> list[str]:
    """Resolve and copy the jar of OpenLineage, which has all that it needs in itself; returns its file name."""
    target = lineage_jar()
    target.parent.mkdir(exist_ok=True)
    (jar,) = [jar for jar in _resolved({"spark.jars.packages": LINEAGE}) if jar.name == target.name]
    shutil.copy2(jar, target)
    return [target.name]


def _defaults() -> Path:
    return spark_home() / "conf" / "spark-defaults.conf"


def _kept(name: str, jars: list[Path]) -> list[str]:
    """Make these jars the content of a folder beside Spark's own; returns their names."""
    folder = spark_home() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return [Path(shutil.copy2(jar, folder)).name for jar in jars]


def _name_jars() -> None:
    """Have every session of this environment load what is installed."""
    jars = [jar for name in ("delta-jars", "s3-jars") for jar in sorted((spark_home() / name).glob("*.jar"))]
    _defaults().parent.mkdir(exist_ok=True)
    _defaults().write_text(
        f"spark.jars {','.join(map(str, jars))}\nspark.driver.memory 4g\nspark.ui.enabled false\n", encoding="utf-8"
    )


def _resolved(conf: dict[str, str]) -> list[Path]:
    """Start Spark, which resolves what it is told to need, and stop it; without the jars that are here already."""
    session = get_session("precise-install", SparkConfig(master="local[1]", driver_memory="1g", conf=conf))
    jars = str(session.sparkContext.getConf().get("spark.jars", ""))
    session.stop()
    found = [Path(jar.removeprefix("file:")) for jar in jars.split(",")]
    return [jar for jar in found if spark_home() not in jar.parents]


if __name__ == "__main__":
    if "--show" in sys.argv:  # for spark-submit.sh: one line each, the second with its flags
        print(spark_home())
        print(*([] if has_installed_jars() else ["--packages", packages()]))
        raise SystemExit
    chosen = next((flag for flag in ("--lineage", "--s3") if flag in sys.argv), "")
    for name in {"--lineage": install_lineage, "--s3": install_s3, "": install}[chosen]():
        print(name)
    print(f"jars installed: {has_installed_jars()}")
