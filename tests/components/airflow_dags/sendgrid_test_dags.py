"""DAGs for the tests; the connection and the target come from the environment."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG
from lateness import LatenessOperator

from sendgrid_exports.integrations.airflow import SendGridExportOperator

TARGET = os.environ["SENDGRID_DIRECTORY"]
SECONDS = os.environ.get("SENDGRID_TIMEOUT")

common: dict[str, Any] = {
    "target": TARGET + "/{{ dag.dag_id }}/{{ run_id }}/{{ task.task_id }}",
    "execution_timeout": None if SECONDS is None else timedelta(seconds=float(SECONDS)),
    "retries": 1,
    "retry_delay": timedelta(seconds=1),
}

# On a busy machine the scheduler fails tasks that resume before their worker's exit is noted.
patient = {**common, "retries": 5}

with DAG("modes", schedule=None) as modes:
    SendGridExportOperator(task_id="deferred", deferrable=True, **common)
    SendGridExportOperator(task_id="waited", deferrable=False, **common)

with DAG("killed", schedule=None):
    SendGridExportOperator(task_id="export", deferrable=True, **patient)

with DAG("many", schedule=None):
    SendGridExportOperator.partial(
        task_id="export",
        deferrable=True,
        **{**patient, "target": f"{TARGET}/many/{{{{ run_id }}}}"},
    ).expand(on_behalf_of=[f"account-{n}" for n in range(int(os.environ.get("SENDGRID_TASKS", 3)))])
    LatenessOperator(
        task_id="lateness", retries=5, seconds=float(os.environ.get("SENDGRID_SECONDS", 1))
    )
