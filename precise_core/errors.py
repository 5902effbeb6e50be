"""Every error this project raises on purpose.

PreciseError
├── ConfigError          the configuration or a flag is wrong
├── DataError            the data is wrong
│   ├── SchemaError      a column is missing or of another type
│   ├── MissingTableError a table is not there yet
│   ├── HistoryGoneError an older version of a table cannot be read any more
│   ├── RowCountError    rows were lost or made up
│   ├── NothingToEvaluateError no truth in the test period
│   └── ValidationError  an expectation on a table failed
├── ModelError           a checkpoint, index or vector is wrong
│   ├── CheckpointError  missing, changed on disk, or does not fit
│   ├── VersionMixError  vectors of two checkpoints would meet
│   └── TrainingError    the loss is not finite, or the tables do not fit
│       └── NothingToLearnError no examples: the one training error that a night may leave out
│           └── NothingNewError a continued training learnt nothing: the checkpoint in use stays
├── StoreError           a store does not answer, or does not hold what was sent
│   └── ConflictError    an object was written by someone else first
├── EnvironmentProblem   Java, Python, jars or memory are not what is needed
└── WarehouseBusyError   another run holds the warehouse
    ├── ReaderError      files that a reader needs would be removed
    └── InterruptedRollbackError a rollback has to be finished first

A message names the object, the value and what is allowed, in one line that a person can act on. It is printed; what is
kept of it (`runs.error`, report.html) is ``stored_text``: no value that could be a user's id is ever stored.
"""

import traceback

NOT_KEPT = "(printed, not kept)"


class PreciseError(Exception):
    """Root of all errors raised on purpose; jobs print it in one line and exit with 2.

    Args:
        message: What is printed.
        private: A part of it that may name users: values of the data, whatever column they are from.
    """

    def __init__(self, message: str = "", *, private: str = "") -> None:
        super().__init__(message)
        self.stored = message.replace(private, NOT_KEPT) if private else message


def stored_text(error: BaseException) -> str:
    """What is kept of an error; of an unexpected one only the place, since its message may hold any value."""
    if isinstance(error, PreciseError):
        return f"{type(error).__name__}: {error.stored}"
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {frames[-1].name}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}: its message is in the job's output"


class ConfigError(PreciseError):
    """The configuration or a flag is wrong."""


class DataError(PreciseError):
    """The data is wrong."""


class NewerFileError(DataError):
    """A file was written by a newer Arrow than ours, which cannot read how it describes its columns."""


class SchemaError(DataError):
    """A column is missing or of another type than declared in ``schemas``."""


class MissingTableError(DataError):
    """A table a job needs is not there yet; the message names the job that writes it."""


class HistoryGoneError(DataError):
    """An older version of a table, or what changed since, cannot be read any more; the current one can."""


class RowCountError(DataError):
    """rows in differ from rows out + rows rejected, or a feed delivered another count than its snapshot."""


class NothingToEvaluateError(DataError):
    """There is no truth in the test period; a night goes on without the figure."""


class ValidationError(DataError):
    """An expectation on a table failed; nothing was written."""


class ModelError(PreciseError):
    """A checkpoint, index or vector is wrong."""


class CheckpointError(ModelError):
    """A checkpoint is missing, was changed on disk, or does not fit the tables."""


class VersionMixError(ModelError):
    """Vectors of two checkpoints would meet in a join, a score or a search."""


class TrainingError(ModelError):
    """The loss is not finite, or the tables do not fit together."""


class NothingToLearnError(TrainingError):
    """There are no examples to learn from; a night goes on without the model."""


class NothingNewError(NothingToLearnError):
    """A continued training learnt nothing new; the checkpoint in use stays in use."""


class StoreError(PreciseError):
    """A store does not answer, or does not hold what was sent to it."""


class ConflictError(StoreError):
    """An object was written by someone else first: it is there already, or is not as it was read."""


class EnvironmentProblem(PreciseError):
    """Java, Python, jars or memory are not what is needed."""


class WarehouseBusyError(PreciseError):
    """Another run holds the warehouse."""


class ReaderError(WarehouseBusyError):
    """Files that a living reader needs would be removed."""


class InterruptedRollbackError(WarehouseBusyError):
    """A rollback was interrupted and has to be finished first."""
