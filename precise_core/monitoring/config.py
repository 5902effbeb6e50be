"""Where a night can be watched from outside."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from precise_core.config import Config
from precise_core.config.addresses import require_no_secret


class MonitoringConfig(Config):
    """Every key is optional; without it nothing is written or imported."""

    prometheus_file: str | None = Field(
        None,
        description="File `*.prom` in the folder that a node exporter's textfile collector reads, written anew after "
        "every job; one file a warehouse ([metrics](operations.md#metrics-and-alerts)).",
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

    @model_validator(mode="after")
    def _holds_no_password(self) -> MonitoringConfig:
        if self.mlflow_uri is not None:
            instead = "MLFLOW_TRACKING_PASSWORD and the name in MLFLOW_TRACKING_USERNAME, MLflow's own variables"
            require_no_secret("mlflow_uri", self.mlflow_uri, instead)
        return self
