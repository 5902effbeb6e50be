"""A fault of the code or of Java: one line with the true cause; the stack in a log file, or with --verbose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from precise_core.command import Command
from precise_core.run.job import Job
from precise_core.run.run_log import true_cause
from tests.night import CONFIG, arrow_table


def bad_cast(spark: SparkSession) -> None:
    spark.range(3).select(F.concat(F.lit("x"), F.col("id")).cast("int")).collect()


def worker_fault(spark: SparkSession) -> None:
    def boom(number: int) -> int:
        raise ArithmeticError(f"row {number} is odd")

    spark.range(1).select(F.udf(boom, "int")("id")).collect()


def deep_in_java(spark: SparkSession) -> None:
    jvm = spark.sparkContext._jvm
    assert jvm is not None
    cause = jvm.java.io.IOException("the tape is torn", jvm.java.lang.NullPointerException())
    jvm.java.util.concurrent.CompletableFuture.failedFuture(jvm.RuntimeException("wrapper", cause)).get()


def plain_python(_: SparkSession) -> None:
    raise KeyError("nobody\nknows")


FAULTS = [
    (bad_cast, "CAST_INVALID_INPUT", "\tat org.apache.spark"),
    (worker_fault, "ArithmeticError: row 0 is odd", "ArithmeticError"),
    (deep_in_java, "IOException: the tape is torn", "\tat java.base"),
    (plain_python, "KeyError: 'nobody", "Traceback (most recent call last)"),
]


@pytest.mark.parametrize(("fault", "cause", "stack"), FAULTS)
def test_a_fault_is_one_line_and_the_stack_is_in_a_file(
    spark: SparkSession, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    fault: Callable[[SparkSession], None], cause: str, stack: str,
) -> None:  # fmt: skip
    assert spark is not None
    argv = ["--config", str(CONFIG), "--set", f"warehouse={tmp_path / 'wäre'}"]
    assert Command("ingest", "", (), lambda job: fault(job.spark))(argv) == 1
    out, err = capfd.readouterr()
    shown = out + err
    (line,) = [line for line in out.splitlines() if "ingest failed" in line]
    (log,) = (tmp_path / "wäre" / "logs").iterdir()
    assert cause in line and f"the whole stack is in {log}" in line
    assert "\tat " not in shown and "Traceback" not in shown and "ERROR" not in shown
    assert stack in log.read_text(encoding="utf-8")
    error = arrow_table(tmp_path / "wäre", "runs")["error"].to_pylist()[0]
    assert error.endswith("its message is in the job's output")  # a cause may quote rows: nothing of it is kept

    assert Command("ingest", "", (), lambda job: fault(job.spark))([*argv, "--verbose"]) == 1
    out, err = capfd.readouterr()
    assert cause in out and "Traceback (most recent call last)" in err
    assert len(list(log.parent.iterdir())) == 2


def test_a_run_that_succeeds_leaves_no_log(
    spark: SparkSession, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def warns(job: Job) -> None:
        assert job.spark.range(3).cache().count() == job.spark.range(3).cache().count()
        assert job.log_file is not None and "already cached" in job.log_file.read_text(encoding="utf-8")

    argv = ["--config", str(CONFIG), "--set", f"warehouse={tmp_path}"]
    assert spark is not None and Command("ingest", "", (), warns)(argv) == 0
    assert list((tmp_path / "logs").iterdir()) == []
    assert "already cached" not in "".join(capfd.readouterr())


def test_a_warehouse_that_cannot_be_made_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    argv = ["--config", str(CONFIG), "--set", f"warehouse={tmp_path / 'file' / 'warehouse'}"]
    assert Command("ingest", "", (), lambda _: None)(argv) == 1
    out, err = capsys.readouterr()
    assert "NotADirectoryError" in out and "--verbose prints the whole stack" in out and "Traceback" not in out + err


def test_a_java_that_has_died_is_named(spark: SparkSession) -> None:
    gateway = spark.sparkContext._gateway
    assert gateway is not None
    from py4j.java_gateway import GatewayParameters, JavaGateway

    nobody = JavaGateway(gateway_parameters=GatewayParameters(port=1, auth_token="x"))
    with pytest.raises(Exception) as stopped:
        nobody.jvm.System.currentTimeMillis()
    assert "Spark's Java process has ended" in true_cause(stopped.value)
