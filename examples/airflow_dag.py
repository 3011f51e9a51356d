"""An Airflow DAG: export the contacts of an account and its subusers every night, then read them.

    pip install 'sendgrid-exports[airflow]'
    airflow connections add sendgrid_default --conn-type sendgrid --conn-password SG.…
    cp examples/airflow_dag.py "$AIRFLOW_HOME/dags/"

SENDGRID_TARGET is a directory that all workers share, or the url of a bucket (with the extra
`cloud`, and the credentials in the workers' environment), SENDGRID_SUBUSERS the subusers' names.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, task

from sendgrid_exports import read_contacts
from sendgrid_exports.integrations.airflow import SendGridExportOperator

TARGET = os.environ.get("SENDGRID_TARGET", "/var/lib/sendgrid-exports")
SUBUSERS = os.environ.get("SENDGRID_SUBUSERS", "").split()
DAY = "{{ dag_run.run_after | ds }}"

with DAG(
    "sendgrid_contacts",
    schedule="@daily",
    start_date=datetime(2026, 1, 1),  # noqa: DTZ001, Airflow's own time zone
    catchup=False,
    max_active_runs=1,  # Airflow fails one of two tasks that write the same new asset at once
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5), "deferrable": True},
) as dag:
    account = SendGridExportOperator(
        task_id="account",
        target=f"{TARGET}/account/{DAY}",
        execution_timeout=timedelta(hours=2),  # also bounds the time in the triggerer
    )

    SendGridExportOperator.partial(
        task_id="subusers",
        target=f"{TARGET}/{{{{ task.on_behalf_of }}}}/{DAY}",
        execution_timeout=timedelta(hours=2),
        max_active_tis_per_dag=8,
    ).expand(on_behalf_of=SUBUSERS)

    @task
    def read(result: dict[str, Any]) -> dict[str, int]:
        """Count the contacts by country."""
        countries: dict[str, int] = {}
        for row in read_contacts(result["target"], export_id=result["id"]):
            countries[row["COUNTRY"]] = countries.get(row["COUNTRY"], 0) + 1
        return countries

    read(account.output)
