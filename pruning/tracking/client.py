"""A client of an MLflow store; mlflow is imported only when a client is made."""

from __future__ import annotations

import logging
import os
from typing import Any


def connect(uri: str) -> Any:
    """An MLflow client. If its server does not answer, a call fails after seconds instead of minutes."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # importing mlflow sets these to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)
