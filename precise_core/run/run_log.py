"""What goes to the log file of a run instead of the terminal: Spark's own lines and Java's stacks."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from typing import Any

from py4j.protocol import Py4JNetworkError
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession

from precise_core.artefacts import LOGS

_APPENDER = "precise"
_PATTERN = "%d{yy/MM/dd HH:mm:ss} %p %c{1}: %m%n%ex"
# Of a chain of causes the innermost with a message; of a Python worker the line below its traceback.
_JAVA_CAUSE = re.compile(r"^Caused by: (?:[\w$]+\.)*([\w$]+: .+)$", re.MULTILINE)
_PYTHON_CAUSE = re.compile(r"^(?:\w+\.)*(\w*(?:Error|Exception)\w*: .+)$", re.MULTILINE)
_IN_A_WORKER = "Traceback (most recent call last)"


def log_file(scratch: Path, run_id: str) -> Path:
    return scratch / LOGS / f"{run_id}.log"


def send_spark_log_to(session: SparkSession, file: Path) -> None:
    """Send the log of this JVM from now on to ``file``, made with the first line, instead of the terminal."""
    jvm: Any = session.sparkContext._jvm
    core = jvm.org.apache.logging.log4j.core
    context = jvm.org.apache.logging.log4j.LogManager.getContext(False)
    root = context.getConfiguration().getRootLogger()
    layout = core.layout.PatternLayout.newBuilder().withPattern(_PATTERN).build()
    builder = core.appender.FileAppender.newBuilder().withFileName(str(file)).withCreateOnDemand(True)
    appender = builder.setName(_APPENDER).setLayout(layout).build()
    appender.start()
    for name, old in dict(root.getAppenders()).items():
        root.removeAppender(name)
        if name == _APPENDER:
            old.stop()
    root.addAppender(appender, None, None)
    # PySpark prints an error that it raises as JSON, stack and all; the job reports it itself.
    PySparkLogger.getLogger("DataFrameQueryContextLogger").disabled = True
    context.updateLoggers()


def true_cause(error: BaseException) -> str:
    """The cause in one line: of Java's chain of causes, or of a worker's traceback, the innermost with a message."""
    if isinstance(error, Py4JNetworkError | ConnectionRefusedError):
        return f"Spark's Java process has ended, for want of memory or because it was killed ({_one_line(error)})"
    text = f"{error}\n{getattr(error, '_stackTrace', None) or ''}"
    found = (_PYTHON_CAUSE if _IN_A_WORKER in text else _JAVA_CAUSE).findall(text)
    if found:
        return str(found[-1]).strip()
    java = getattr(error, "java_exception", None)
    return _one_line(java) if java is not None else f"{type(error).__name__}: {_one_line(error)}"


def _one_line(error: object) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def keep_stack(file: Path, error: BaseException) -> bool:
    """Add the whole traceback, Java's included, to the log file; False where it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8", errors="replace") as stream:
            stream.writelines(traceback.format_exception(error))
    except OSError:
        return False
    return True


def remove_logs(scratch: Path) -> int:
    """Remove the logs of all runs, which may quote rows; returns how many."""
    files = sorted((scratch / LOGS).glob("*.log"))
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)
