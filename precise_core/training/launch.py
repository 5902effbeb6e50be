"""Train on several ranks: TorchDistributor in Spark's barrier mode, gloo between the processes.

Every rank must see the warehouse under the same path (a shared file system, or one machine).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession

from precise_core.errors import PreciseError, TrainingError

_ERROR_LINE = re.compile(r"^\W*(?:\w+\.)*\w*(?:Error|Exception): .+", re.MULTILINE)


def run_on_ranks(
    spark: SparkSession, ranks: int, work: Callable[..., str], timeout_seconds: int, **arguments: Any
) -> str:
    """Run ``work(**arguments)`` on ``ranks`` processes of one process group; returns what rank 0 returned.

    On `local[...]` the processes are children of the driver, on any other master they are tasks of a barrier stage.

    Args:
        work: A function at the top of a module; it returns a path, never a model.
        timeout_seconds: Longest wait of a rank for the others. A process that dies is noticed at once, a machine that
            falls silent after this time.
        arguments: Plain, picklable values.

    Raises:
        PreciseError: What ``work`` raised on rank 0.
        TrainingError: A rank died, fell silent, or could not be started.
    """
    is_local = str(spark.sparkContext.master).startswith("local[")
    distributor = TorchDistributor(num_processes=ranks, local_mode=is_local, use_gpu=False)
    try:
        outcome = distributor.run(_on_one_rank, work, timeout_seconds, arguments)
    except Exception as error:  # Spark and torchrun raise many kinds
        raise TrainingError(
            f"training on {ranks} ranks failed: a rank died or could not be started ({_reason(error)}; the log above "
            f"says more); run the same again to continue at the last saved step"
        ) from error
    if isinstance(outcome, PreciseError):
        raise outcome
    return str(outcome)


def _on_one_rank(work: Callable[..., str], timeout_seconds: int, arguments: dict[str, Any]) -> str | PreciseError:
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout_seconds))
    try:
        return work(**arguments)
    except PreciseError as error:
        # Returned instead of raised: of an exception the driver would only see that there was one.
        print(f"rank {dist.get_rank()}: {error}", flush=True)
        return error
    finally:
        dist.destroy_process_group()


def _reason(error: Exception) -> str:
    """The last line of a long report that names an error, or its first line."""
    text = str(error).strip()
    found = _ERROR_LINE.findall(text)
    return (found[-1] if found else text.partition("\n")[0]).strip().rstrip(".")[:300]
