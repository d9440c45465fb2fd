"""Make a new SQLite store of MLflow in one step: MLflow creates its tables one by one, which takes seconds.

MLflow cannot open a store in which a kill has left some of the tables. So a new store is made under a hidden name.
"""

from __future__ import annotations

from pathlib import Path

from pruning.core.publish import staged
from pruning.tracking.client import connect


def create_store(database: Path) -> None:
    """Create an empty store in the file `database` unless the file exists. Call this under the store's lock."""
    if database.exists():
        return
    with staged(database) as scratch:
        client = connect(f"sqlite:///{scratch / database.name}", create=True)
        client.search_experiments()
        client._tracking_client.store.engine.dispose()  # closes the file
        (scratch / database.name).replace(database)
