"""Where a night can be watched from outside."""

from __future__ import annotations

from pydantic import Field, field_validator

from precise_core.config import Config


class MonitoringConfig(Config):
    """Every key is optional; without it nothing is written or imported."""

    prometheus_file: str | None = Field(
        None,
        description="File `*.prom` in the folder that a node exporter's textfile collector reads, written anew after "
        "every job ([metrics](operations.md#metrics-and-alerts)).",
    )
    mlflow_uri: str | None = Field(
        None,
        min_length=1,
        description="Tracking URI of an MLflow server (`http://...`); trainings are logged there. Needs the extra "
        "`tracking`; a database (`sqlite:///...`) needs the whole of MLflow.",
    )
    mlflow_experiment: str | None = Field(
        None, min_length=1, description="Experiment of the trainings in MLflow; by default `name`."
    )

    @field_validator("prometheus_file")
    @classmethod
    def _is_collected(cls, value: str | None) -> str | None:
        if value is not None and not value.endswith(".prom"):
            raise ValueError(f"{value!r}: must end in .prom; the textfile collector reads no other file")
        return value
