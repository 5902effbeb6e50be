"""Train on several ranks: TorchDistributor in Spark's barrier mode, gloo between the processes.

Every rank must see the warehouse under the same path (a shared file system, or one machine).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from pyspark.ml.torch.distributor import TorchDistributor
from pyspark.sql import SparkSession

# A lost rank must fail the stage soon: gloo waits half an hour by default.
_TIMEOUT = timedelta(minutes=3)


def run_on_ranks(spark: SparkSession, ranks: int, work: Callable[..., str], **arguments: Any) -> str:
    """Run ``work(**arguments)`` on ``ranks`` processes of one process group; returns what rank 0 returned.

    On `local[...]` the processes are children of the driver, on any other master they are tasks of a barrier stage.

    Args:
        spark: The session.
        ranks: Number of processes.
        work: A function of a module of ours; it returns a path, never a model.
        arguments: Plain, picklable values.
    """
    is_local = str(spark.sparkContext.master).startswith("local[")
    distributor = TorchDistributor(num_processes=ranks, local_mode=is_local, use_gpu=False)
    return str(distributor.run(_on_one_rank, work, arguments))


def _on_one_rank(work: Callable[..., str], arguments: dict[str, Any]) -> str:
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=_TIMEOUT)
    try:
        return work(**arguments)
    finally:
        dist.destroy_process_group()
