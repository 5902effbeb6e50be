"""The log store for S3, written in Java: its source, and the jar that is kept beside it.

`python -m precise_core.warehouse.log_store` builds the jar again after a change of the source (docs/decisions/0041). It
needs a JDK and `make install-s3`; whoever only runs jobs needs neither. The same source gives the same bytes.
"""

from __future__ import annotations

import subprocess
import tempfile
import zipfile
from pathlib import Path

from precise_core.errors import EnvironmentProblem

CLASS = "precise.ConditionalS3LogStore"
SOURCE = Path(__file__).with_name("ConditionalS3LogStore.java")
JAR = SOURCE.with_name("precise-s3-log-store.jar")

_JAVA = "17"  # the oldest that Spark 4 starts with
_MANIFEST = b"Manifest-Version: 1.0\r\n\r\n"


def build(jar: Path, spark_home: Path) -> None:
    """Compile ``SOURCE`` and pack it, the source included, with no time in it.

    Args:
        spark_home: Of a PySpark with the jars of Delta and S3.

    Raises:
        EnvironmentProblem: There is no compiler, or it refuses the source.
    """
    class_path = [jar for jar in sorted(spark_home.glob("*jars/*.jar")) if jar.name != JAR.name]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--release", _JAVA, "-proc:none", "-cp", ":".join(map(str, class_path)), "-d", folder]
        try:
            done = subprocess.run(["javac", *options, str(SOURCE)], capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise EnvironmentProblem("there is no javac; a JDK has it (Debian: openjdk-17-jdk-headless)") from error
        if done.returncode:
            raise EnvironmentProblem(f"{SOURCE.name} does not compile: {done.stderr.strip()}")
        classes = sorted(Path(folder).rglob("*.class"))
        files = {file.relative_to(folder).as_posix(): file.read_bytes() for file in classes}
    files = {"META-INF/MANIFEST.MF": _MANIFEST} | files | {f"precise/{SOURCE.name}": SOURCE.read_bytes()}
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of 1980, for all


if __name__ == "__main__":
    from precise_core.warehouse.session import spark_home

    build(JAR, spark_home())
    print(JAR)
