"""DAGs for the tests; the connection and the target come from the environment."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from sendgrid_exports.integrations.airflow import SendGridExportOperator

TARGET = os.environ["SENDGRID_TARGET"]
SECONDS = os.environ.get("SENDGRID_TIMEOUT")

common: dict[str, Any] = {
    "target": TARGET + "/{{ dag.dag_id }}/{{ run_id }}/{{ task.task_id }}",
    "execution_timeout": None if SECONDS is None else timedelta(seconds=float(SECONDS)),
    "retries": 1,
    "retry_delay": timedelta(seconds=1),
}

with DAG("modes", schedule=None) as modes:
    SendGridExportOperator(task_id="deferred", deferrable=True, **common)
    SendGridExportOperator(task_id="waited", deferrable=False, **common)
