"""A command: its flags, its run from the configuration to the exit code, its errors in one line."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deltalake.exceptions import DeltaError

from precise_core.command_line import Flag, command_parser, flag, overrides_of
from precise_core.config import load_config
from precise_core.errors import PreciseError, stored_text
from precise_core.intake.chosen_sizes import sized
from precise_core.monitoring.textfile import write_textfile
from precise_core.run.job import Job, require_no_rollback
from precise_core.run.progress import console
from precise_core.run.run_log import keep_stack, log_file, true_cause
from precise_core.settings import Settings
from precise_core.warehouse.holders import Holder
from precise_core.warehouse.locks import reader_lease, warehouse_lock
from precise_core.warehouse.places import store_errors
from precise_core.warehouse.spark_errors import unreadable_files

EXIT_FAULT = 1
EXIT_FAILED = 2


def switch(name: str, meaning: str) -> Flag:
    return flag(name, meaning, action="store_true")


def task_flag(what: str) -> Flag:
    """``--task``, of a job that can be restricted to ``what`` of single tasks."""
    return flag("--task", f"only this task's {what}; repeatable; all by default", action="append")


DATA = flag("--data", "folder of the source's files; short for --set source.data=", metavar="FOLDER")


class CommandLine(ABC):
    """What a command line is: called with the arguments, it gives the exit code.

    Errors are printed in one line: those raised on purpose (PreciseError), and any other with its true cause and the
    file that has the whole stack; with ``--verbose`` the stack is printed.
    """

    def __init__(self, name: str, doc: str | None, flags: Sequence[Flag]) -> None:
        self.name, self.parser = name, command_parser(name, doc, flags)

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        arguments = self.parser.parse_args(sys.argv[1:] if argv is None else argv)
        try:
            return self._run(arguments)
        except Exception as error:
            return report_error(self.name, error, is_verbose=arguments.verbose)

    @abstractmethod
    def _run(self, arguments: argparse.Namespace) -> int: ...


class Command(CommandLine):
    """A job as a command: a run of its own, written down in `runs`.

    Attributes:
        body: What the job does; for a job that runs another in its own run.
    """

    def __init__(self, name: str, doc: str | None, flags: Sequence[Flag], body: Callable[[Job], None]) -> None:
        super().__init__(name, doc, flags)
        self.body = body

    def _run(self, arguments: argparse.Namespace) -> int:
        written = load_config(arguments.config, Settings, overrides_of(arguments))
        with warehouse_lock(written.warehouse) as stale:
            warn_stale_lock(stale)
            settings = sized(written)
            job = Job(self.name, settings, arguments)
            if self.name != "rollback":
                require_no_rollback(job.root)
            with reader_lease(settings.warehouse, self.name) as job.lease:
                code = _run(job, self.body)
            job.end_application()
            tell_monitor(settings)
            return code


def command(*flags: Flag) -> Callable[[Callable[[Job], None]], Command]:
    """Make a function of a Job the command of its file: the file's name is the job's, its docstring the help."""
    return lambda body: Command(*file_of(body), flags, body)


def file_of(body: Callable[..., Any]) -> tuple[str, str | None]:
    """Name and docstring of the file of a function, where that file may be the program itself."""
    return Path(inspect.getfile(body)).stem, body.__globals__["__doc__"]


def flags_of(arguments: argparse.Namespace, overrides: Sequence[str]) -> list[str]:
    """The command line of a job that a command of several jobs starts."""
    verbose = ["--verbose"] if arguments.verbose else []
    return ["--config", arguments.config, *verbose, *(part for one in overrides for part in ("--set", one))]


def warn_stale_lock(stale: Holder | None) -> None:
    """Print that the previous writer was killed, and that nothing has to be done about it."""
    if stale:
        console.print(
            f"  the last writer, {stale}, was killed; its lock is void, tables are at whole versions", markup=False
        )


def tell_monitor(settings: Settings) -> None:
    """Bring the text file of Prometheus up to date; one that cannot be written is warned of."""
    if warning := write_textfile(settings):
        console.print(f"  warning: {warning}", markup=False)


def _run(job: Job, body: Callable[[Job], None]) -> int:
    console.print(f"[bold]{job.name}[/bold]: {job.settings.name}, as of {job.settings.as_of:%Y-%m-%d %H:%M} UTC")
    started_at, started = datetime.now(UTC), time.monotonic()
    is_verbose = job.arguments.verbose
    file = log_file(job.scratch, job.run_id)
    job.log_file = None if is_verbose else file
    try:
        with store_errors(job.warehouse.root), unreadable_files("docs/operations.md says how to get a file back"):
            body(job)
    except BaseException as error:
        with suppress(OSError, DeltaError):  # on a full disk the error is still printed
            job.record("failed", started_at, time.monotonic() - started, stored_text(error)[:2000])
        if isinstance(error, Exception):
            return report_error(job.name, error, file, is_verbose=is_verbose)
        raise
    finally:
        job.release()
    seconds = time.monotonic() - started
    job.record("succeeded", started_at, seconds, None)
    file.unlink(missing_ok=True)
    console.print(f"[bold]{job.name}[/bold]: done in {seconds:.1f} s\n")
    return 0


def report_error(name: str, error: Exception, file: Path | None = None, *, is_verbose: bool) -> int:
    """Print an error in one line, and give the exit code.

    Of an unexpected error the true cause is printed, and the whole stack is kept in ``file`` or, if verbose, printed.
    """
    if isinstance(error, PreciseError):
        message = " ".join(line.strip() for line in str(error).splitlines())
        console.print(f"{name} failed: {message}", style="bold red", markup=False)
        return EXIT_FAILED
    is_kept = file is not None and keep_stack(file, error)
    where = f"the whole stack is in {file}" if is_kept else "--verbose prints the whole stack"
    console.print(f"{name} failed: {true_cause(error)}; {where}", style="bold red", markup=False)
    if is_verbose:
        traceback.print_exception(error)
    return EXIT_FAULT
