"""Two DAGs for Airflow 3: every night, and between nights the hourly path of new items (docs/operations.md).

A task runs one job with the project's own interpreter; Airflow's environment needs none of our packages.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk import DAG, BaseOperator, chain
from precise_jobs import jobs_of_a_night, jobs_of_an_hour

HOME = Path(os.environ.get("PRECISE_HOME") or Path(__file__).resolve().parents[2])
CONFIG = os.environ.get("PRECISE_CONFIG", "conf/demo.yaml")
PYTHON = HOME / ".venv" / "bin" / "python"
# The night learns from what lies before the instant that Airflow runs it for, also when it is run again later.
AS_OF = "{{ (logical_date or dag_run.run_after).strftime('%Y-%m-%dT%H:%M:%SZ') }}"
NOTHING_NEW = 99  # new_files.py; any other code than 0 is an error

config = yaml.safe_load((HOME / CONFIG).read_text(encoding="utf-8"))


def command(script: str, *flags: str) -> str:
    return f"{shlex.join([str(PYTHON), script, '--config', CONFIG])} {' '.join(flags)}".strip()


QUESTION = f"cd {shlex.quote(str(HOME))} && {command('examples/airflow/new_files.py')}"


def precise_dag(name: str, schedule: str, jobs: Sequence[str], doc: str, first: Callable[[], BaseOperator]) -> DAG:
    """A question about new files, then the jobs one after another: one writer at a time is let into a warehouse."""
    with DAG(
        dag_id=name,
        description=doc,
        schedule=schedule,
        start_date=datetime(2024, 1, 1, tzinfo=UTC),
        catchup=False,
        max_active_runs=1,
        tags=["precise"],
        default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
    ) as dag:
        tasks = [
            BashOperator(task_id=job, bash_command=command(f"jobs/{job}.py", "--set", f"as_of={AS_OF}"), cwd=str(HOME))
            for job in jobs
        ]
        chain(first(), *tasks)
    return dag


def wait_for_files() -> BaseOperator:
    return BashSensor(
        task_id="new_files",
        bash_command=f"{QUESTION} --night",
        retry_exit_code=NOTHING_NEW,
        mode="reschedule",
        poke_interval=timedelta(minutes=5),
        timeout=timedelta(hours=4),
    )


def ask_for_files() -> BaseOperator:
    """No sensor, whose `soft_fail` would show its errors as skipped too."""
    return BashOperator(task_id="new_files", bash_command=QUESTION, skip_on_exit_code=NOTHING_NEW)


night = precise_dag(
    "precise_night",
    os.environ.get("PRECISE_NIGHT", "0 2 * * *"),
    jobs_of_a_night(config),
    "From new files to published lists; fails where none came in four hours",
    wait_for_files,
)
items = precise_dag(
    "precise_items",
    os.environ.get("PRECISE_ITEMS", "0 7-23 * * *"),
    jobs_of_an_hour(config),
    "New items get vectors and are found, without a training; skipped where no file came",
    ask_for_files,
)
