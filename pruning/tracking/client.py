"""A client of an MLflow store; mlflow is imported only when a client is made."""

from __future__ import annotations

import logging
import os
from typing import Any

from pruning.tracking.store_uri import check_exists, check_uri, sqlite_file


def connect(uri: str, *, create: bool = False) -> Any:
    """An MLflow client. If its server does not answer, a call fails after seconds instead of minutes.

    Raises InputError if the address is wrong, or if an SQLite file does not exist and `create` is false.
    """
    check_uri(uri, setting="")
    if not create:
        check_exists(uri)
    elif (file := sqlite_file(uri)) is not None:
        file.parent.mkdir(exist_ok=True)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # importing mlflow sets these to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    # A retry is no news: if the call fails in the end, the caller reports it in one line.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    return MlflowClient(tracking_uri=uri)
