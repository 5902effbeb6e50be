"""The one place that starts Spark."""

from __future__ import annotations

import locale
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from delta import configure_spark_with_delta_pip
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from precise_core.errors import EnvironmentProblem
from precise_core.warehouse import log_store
from precise_core.warehouse.config import S3_LOG_STORE, SparkConfig
from precise_core.warehouse.places import s3_environment

# JDBC drivers that come with an installation, for sources in a database.
DRIVERS = ("org.postgresql:postgresql:42.7.7",)

# Files that Spark looks up without a job of its own.
MOST_LISTED_HERE = 256

# Of the Scala that PySpark 4.0 is built with; docs/decisions/0006-jars-beside-pyspark.md.
LINEAGE = "io.openlineage:openlineage-spark_2.13:1.53.0"

# What every session must have, also one that spark-submit has started.
_SETTINGS = {
    "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
    "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
    # By default Spark makes the folder of its own catalog, which stays empty, in the working directory, and below a
    # path with a blank beside it.
    "spark.sql.warehouse.dir": str(Path(tempfile.gettempdir()) / "precise-spark-warehouse"),
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    # INT96, the default, is deprecated and carries nanoseconds that pandas and DuckDB read in their own ways.
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    # A corrupt or vanished file must fail the job, never shrink its input.
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.hadoop.parquet.page.verify-checksum.enabled": "true",
    # Files of partitioned tables: Delta's own 512 MiB are large for a reader of a few of their rows.
    "spark.databricks.delta.optimizeWrite.binSize": "128m",
    # Tables here have few files: the default of 50 partitions for the log snapshot costs seconds per table.
    "spark.databricks.delta.snapshotPartitions": "2",
    # Delta's own lets a second driver replace a commit in silence (docs/decisions/0041).
    S3_LOG_STORE: log_store.CLASS,
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # The largest value turns off a check that measures the whole batch again after every row: a good part of the
    # CPU time of a pass over narrow rows. Batches stay at 10,000 rows; the longest sequences and
    # vectors fit into them, and texts are cut before they travel.
    "spark.sql.execution.arrow.maxBytesPerBatch": "2147483647",
    "spark.sql.sources.parallelPartitionDiscovery.threshold": str(MOST_LISTED_HERE),
    "spark.ui.showConsoleProgress": "false",
    "spark.ui.enabled": "false",
}


# Of the source and all tables.
_LITTLE_BYTES, _TINY_BYTES = 32 << 20, 1 << 20
_NOT_COMPILED = (  # and what is usual
    ("spark.sql.codegen.wholeStage", "false", "true"),
    ("spark.sql.codegen.factoryMode", "NO_CODEGEN", "FALLBACK"),
)

# Most of a short JVM's CPU time is its second compiler, and collector threads that wait for each other.
_LIGHT_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
# Without it the listener prints a stack at every start.
_LINEAGE_JAVA = "--add-opens=java.base/java.security=ALL-UNNAMED"
_JAVA_OPTIONS = "spark.driver.extraJavaOptions"


def get_session(
    app_name: str, config: SparkConfig, *, is_light: bool = False, environment: str = "precise"
) -> SparkSession:
    """The running session, or a new one with Delta, UTC, ANSI and WARN logging.

    Under spark-submit the JVM runs already: its master, memory, packages and flags were decided there and win.

    Args:
        app_name: `precise-<job>`; lineage, where it is on, names the job.
        is_light: Start a JVM for little data; of no effect where ``config.conf`` has Java's options.
        environment: Namespace of the jobs in lineage.

    Raises:
        EnvironmentProblem: The jars of Delta, or of OpenLineage where ``config.lineage`` needs it, are not there.
    """
    builder = SparkSession.builder.appName(app_name)
    lineage = (
        _lineage_settings(app_name.removeprefix("precise-"), config.lineage, environment) if config.lineage else {}
    )
    for key, value in (_SETTINGS | _s3_settings() | lineage | config.conf).items():
        builder = builder.config(key, value)
    builder = builder.config("spark.sql.shuffle.partitions", config.shuffle_partitions)
    if not _is_under_spark_submit():
        builder = builder.master(config.master).config("spark.driver.memory", config.driver_memory)
        java = [_LIGHT_JAVA] * is_light + [_LINEAGE_JAVA] * bool(config.lineage)
        if java and _JAVA_OPTIONS not in config.conf:
            builder = builder.config(_JAVA_OPTIONS, " ".join(java))
        # One interpreter for driver and workers, whatever `python3` means on the path.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        # Everything is in this process: no need to be reachable, nor to guess an address.
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        # Java takes the encoding of file names from the locale; under cron there is none, and `ä` would become `?`.
        if not _is_utf8(locale.getencoding()):
            os.environ["LC_ALL"] = "C.UTF-8"
        if not has_installed_jars():
            builder = configure_spark_with_delta_pip(builder, extra_packages=list(DRIVERS))
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("WARN")
    _require_delta(session)
    return session


def has_lineage(session: SparkSession) -> bool:
    """Whether a listener of lineage is told what is read."""
    return "openlineage" in str(session.conf.get("spark.extraListeners", ""))


def jobs_so_far(session: SparkSession) -> int:
    """How many jobs Spark has run since its JVM was started."""
    context: Any = session.sparkContext._jsc
    return int(context.sc().dagScheduler().numTotalJobs())


def plan_for(session: SparkSession, config: SparkConfig, data_bytes: int) -> None:
    """Have queries planned, from now on, for so much data; what ``config.conf`` has stays.

    Little is planned once, for a task a core: to plan again after every shuffle costs more than it saves then. Of very
    little no Java class is made of a query either: it is over before that is compiled.
    """
    is_little, is_tiny = data_bytes < _LITTLE_BYTES, data_bytes < _TINY_BYTES
    partitions = config.shuffle_partitions
    if is_little:
        partitions = min(session.sparkContext.defaultParallelism, partitions)
    given = dict(session.sparkContext.getConf().getAll())  # what spark-submit was given, for one
    for key, value in (
        ("spark.sql.shuffle.partitions", str(partitions)),
        ("spark.sql.adaptive.enabled", "false" if is_little else given.get("spark.sql.adaptive.enabled", "true")),
        *((key, value if is_tiny else given.get(key, usual)) for key, value, usual in _NOT_COMPILED),
    ):
        if key not in config.conf:
            session.conf.set(key, value)


@contextmanager
def session_settings(session: SparkSession, settings: Mapping[str, str]) -> Iterator[None]:
    """Settings that hold for the block, for commands that have no options of their own."""
    before = {key: session.conf.get(key, None) for key in settings}
    for key, value in settings.items():
        session.conf.set(key, value)
    try:
        yield
    finally:
        for key, old in before.items():
            session.conf.unset(key) if old is None else session.conf.set(key, old)


def require_names(session: SparkSession, paths: Iterable[str]) -> None:
    """Refuse paths that Java would write with other characters: a sibling folder, or a file that is not there.

    Raises:
        EnvironmentProblem: A path is not ASCII, and the locale that Python or Java was started in is not UTF-8.
    """
    jvm: Any = session.sparkContext._jvm
    encodings = (str(jvm.System.getProperty("sun.jnu.encoding")), sys.getfilesystemencoding())
    other = [path for path in paths if not path.isascii()]
    if other and not all(map(_is_utf8, encodings)):
        raise EnvironmentProblem(
            f"{other[0]}: Java writes file names in {encodings[0]} here, Python in {encodings[1]}, and this name needs "
            "UTF-8; start with ./spark-submit.sh, or set LC_ALL=C.UTF-8 before"
        )


def require_s3(session: SparkSession, place: str) -> None:
    """Refuse a place on S3 where the session cannot reach it, or where two drivers would lose commits.

    Raises:
        EnvironmentProblem: The jars of S3 are not there, or the session commits in another way.
    """
    if not place.startswith("s3a://"):
        return
    used = session.sparkContext.getConf().get(S3_LOG_STORE)
    if used != log_store.CLASS:
        raise EnvironmentProblem(
            f"{place}: this Spark session commits by {used or 'the log store of Delta'}, which loses commits of two "
            f"drivers; start it with {S3_LOG_STORE} {log_store.CLASS}"
        )
    jvm: Any = session.sparkContext._jvm
    for name in ("org.apache.hadoop.fs.s3a.S3AFileSystem", log_store.CLASS):
        try:
            jvm.java.lang.Thread.currentThread().getContextClassLoader().loadClass(name)
        except Py4JJavaError as error:
            raise EnvironmentProblem(
                f"{place}: Spark was started without the jars of S3 ({name} is missing); run `make install-s3`"
            ) from error


def _is_utf8(encoding: str) -> bool:
    return encoding.upper().replace("-", "") == "UTF8"


def has_installed_jars() -> bool:
    """True where `make install` has put the Delta jars beside this environment's PySpark."""
    return any("io.delta_delta-spark" in jar for jar in _installed_jars())


def spark_home() -> Path:
    """The PySpark of this environment."""
    return Path(str(resources.files("pyspark")))


def lineage_jar() -> Path:
    """Where `make install-lineage` puts the listener: beside the other jars, but loaded only where it is wanted."""
    group, name, version = LINEAGE.split(":")
    return spark_home() / "lineage-jars" / f"{group}_{name}-{version}.jar"


def _is_under_spark_submit() -> bool:
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _installed_jars() -> list[str]:
    defaults = spark_home() / "conf" / "spark-defaults.conf"
    lines = defaults.read_text(encoding="utf-8").splitlines() if defaults.is_file() else []
    return next((line.split(maxsplit=1)[1].split(",") for line in lines if line.startswith("spark.jars ")), [])


def _s3_settings() -> dict[str, str]:
    """Where S3 is; who we are Spark finds in the environment itself, and no setting holds it."""
    endpoint, region = s3_environment()
    settings = {"spark.hadoop.fs.s3a.endpoint.region": region} if region else {}
    if endpoint:
        # A server of one's own knows its buckets by path, not by host name.
        settings |= {"spark.hadoop.fs.s3a.endpoint": endpoint, "spark.hadoop.fs.s3a.path.style.access": "true"}
    return settings


def _lineage_settings(job: str, target: str, environment: str) -> dict[str, str]:
    """Of OpenLineage's listener: the job and the tables have the names that the docs have."""
    jar = lineage_jar()
    jars = {} if _is_under_spark_submit() else {"spark.jars": ",".join([*_installed_jars(), str(jar)])}
    if jars and not jar.is_file():
        raise EnvironmentProblem(f"spark.lineage {target}: {jar.name} is not installed; run `make install-lineage`")
    transport = {"type": "http", "url": target}
    if not target.startswith(("http://", "https://")):
        file = Path(target).absolute()
        file.parent.mkdir(parents=True, exist_ok=True)
        transport = {"type": "file", "location": str(file)}
    return {
        **jars,
        "spark.extraListeners": "io.openlineage.spark.agent.OpenLineageSparkListener",
        "spark.openlineage.namespace": environment,
        "spark.openlineage.appName": job,
        # A dataset is called by its path: less the way to the table.
        "spark.openlineage.dataset.removePath.pattern": r"(?<remove>.*/tables/).*",
        **{f"spark.openlineage.transport.{key}": value for key, value in transport.items()},
    }


def _require_delta(session: SparkSession) -> None:
    try:
        jvm: Any = session.sparkContext._jvm
        jvm.java.lang.Thread.currentThread().getContextClassLoader().loadClass(
            "io.delta.sql.DeltaSparkSessionExtension"
        )
    except Exception as error:
        raise EnvironmentProblem(
            "Spark was started without the Delta package; use ./spark-submit.sh, or `make install`, which adds it "
            "to the environment's spark-defaults.conf"
        ) from error
