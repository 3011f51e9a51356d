"""A real Airflow (scheduler, triggerer, API server) against a fake SendGrid in another process.

Some minutes: `nox -s tests_airflow` installs Airflow. SENDGRID_TASKS is how many mapped tasks run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from sendgrid_exports.testing import FakeSendGrid, FakeSubuser
from sendgrid_exports.testing.thread import ThreadedFakeSendGrid
from tests.components.conftest import end, free_port

if importlib.util.find_spec("airflow") is None:
    pytest.skip("apache-airflow is not installed: nox -s tests_airflow", allow_module_level=True)

ROOT = Path(__file__).parents[2]
TASKS = int(os.environ.get("SENDGRID_TASKS", "200"))
READY_AFTER = 20 + 1.5 * TASKS

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(2400)]


@attrs.frozen
class Airflow:
    """A running Airflow, through its REST API."""

    url: str
    home: Path
    fake: ThreadedFakeSendGrid

    def call(self, path: str, body: object = None, *, token: str = "") -> Any:
        request = urllib.request.Request(self.url + path)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def api(self, path: str, body: object = None) -> Any:
        token = self.call("/auth/token")["access_token"]
        return self.call(f"/api/v2{path}", body, token=token)

    def start(self, dag_id: str) -> str:
        """Start a run of a DAG, and return the path of the run in the API."""
        run = self.api(f"/dags/{dag_id}/dagRuns", {"logical_date": None})
        return f"/dags/{dag_id}/dagRuns/{urllib.parse.quote(run['dag_run_id'])}"

    def tasks(self, run: str) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = []
        while page := self.api(f"{run}/taskInstances?limit=100&offset={len(tasks)}"):
            tasks += page["task_instances"]
            if len(tasks) >= page["total_entries"]:
                return tasks
        return tasks

    def finish(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run, and return the results of its tasks."""
        until(lambda: self.api(run)["state"] in {"success", "failed"})
        states = {task["state"] for task in self.tasks(run)}
        assert states == {"success"}
        return {task["task_id"]: self.result(run, task) for task in self.tasks(run)}

    def result(self, run: str, task: dict[str, Any]) -> Any:
        path = f"{run}/taskInstances/{task['task_id']}/xcomEntries/return_value"
        return self.api(f"{path}?map_index={task['map_index']}&deserialize=true")["value"]

    def starts(self) -> int:
        return len([one for one in self.fake.api_requests if one.method == "POST"])


def until(condition: Callable[[], Any], seconds: float = 1200) -> Any:
    """Return what `condition` gives as soon as it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail("it did not happen in time")


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    shutil.copytree(ROOT / "tests/components/airflow_dags", home / "dags")
    port = free_port()
    subusers = [
        FakeSubuser(f"account-{n}", contacts=5, ready_after=READY_AFTER) for n in range(TASKS)
    ]
    with FakeSendGrid.in_thread(contacts=20, ready_after=5.0, subusers=subusers) as fake:
        connection = {"conn_type": "sendgrid", "password": fake.api_key, "host": fake.base_url}
        settings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of these tests, long enough for HS512 " * 2,
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
            "AIRFLOW__CORE__PARALLELISM": "6",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "AIRFLOW_CONN_SENDGRID_DEFAULT": json.dumps(connection),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            # The triggerer imports a trigger of the tests from there.
            "PYTHONPATH": str(home / "dags"),
            "SENDGRID_SECONDS": str(READY_AFTER),
            "SENDGRID_TARGET": str(home / "exports"),
            "SENDGRID_TASKS": str(TASKS),
        }
        with (home / "standalone.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "airflow", "standalone"],
                env={
                    **os.environ,
                    **settings,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Airflow(url=f"http://127.0.0.1:{port}", home=home, fake=fake)
        try:
            until(lambda: {"many"} <= {*dags(running)}, 300)
            yield running
        finally:
            end(process, 30)


def dags(airflow: Airflow) -> list[str]:
    try:
        return [dag["dag_id"] for dag in airflow.api("/dags")["dags"]]
    except OSError:
        return []  # it does not listen yet


def test_both_modes_give_the_same_result(airflow: Airflow) -> None:
    results = airflow.finish(airflow.start("modes"))
    assert results["deferred"]["contacts"] == results["waited"]["contacts"] == 20
    [deferred], [waited] = results["deferred"]["files"], results["waited"]["files"]
    assert (deferred["size"], deferred["sha256"]) == (waited["size"], waited["sha256"])


@pytest.mark.parametrize("moment", ["start", "status"])
def test_a_worker_that_is_killed_before_it_defers_starts_no_second_export(
    airflow: Airflow, moment: Any
) -> None:
    starts, seen = airflow.starts(), len(airflow.fake.api_requests)
    answer = {"id": "lost"} if moment == "start" else None
    airflow.fake.respond(
        202 if moment == "start" else None, body=answer, on=moment, processed=True, delay=600
    )
    run = airflow.start("killed")
    method = "POST" if moment == "start" else "GET"
    until(lambda: method in [one.method for one in airflow.fake.api_requests[seen:]])
    [task] = airflow.tasks(run)
    os.kill(task["pid"], signal.SIGKILL)
    airflow.fake.clear_faults()
    result = airflow.finish(run)["export"]
    [task] = airflow.tasks(run)
    assert task["try_number"] > 1
    assert result["contacts"] == 20
    assert airflow.starts() == starts + 1


def test_mapped_tasks_wait_together_in_the_triggerer(
    airflow: Airflow, capsys: pytest.CaptureFixture[str]
) -> None:
    starts, polls = airflow.starts(), len(airflow.fake.api_requests)
    run = airflow.start("many")
    most = 0

    def is_over() -> bool:
        nonlocal most
        most = max(most, sum(task["state"] == "deferred" for task in airflow.tasks(run)))
        time.sleep(1)
        return airflow.api(run)["state"] in {"success", "failed"}

    until(is_over, 2000)
    late = airflow.finish(run)["lateness"]
    exports = [task for task in airflow.tasks(run) if task["task_id"] == "export"]
    assert len(exports) == TASKS
    assert {airflow.result(run, task)["contacts"] for task in exports} == {5}
    assert airflow.starts() == starts + TASKS
    with capsys.disabled():
        print(
            f"\n{TASKS} mapped tasks, {most} deferred at once, "
            f"{len(airflow.fake.api_requests) - polls} requests; the triggerer's loop is late by",
            ", ".join(f"{name} {seconds * 1000:.1f} ms" for name, seconds in late.items()),
        )


def test_no_secret_is_in_a_log_or_in_the_database(airflow: Airflow) -> None:
    results = airflow.finish(airflow.start("modes"))
    text = json.dumps(results)
    logs = [path for path in airflow.home.rglob("*.log") if path.is_file()]
    assert any(results["deferred"]["id"] in path.read_text(errors="replace") for path in logs)
    text += "".join(path.read_text(errors="replace") for path in logs)
    for path in airflow.home.glob("airflow.db*"):
        text += path.read_bytes().decode("latin-1")
    for secret in (airflow.fake.api_key, "X-Amz-Signature", "X-Amz-Credential"):
        assert secret not in text
