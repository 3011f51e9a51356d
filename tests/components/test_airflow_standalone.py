"""A real Airflow (scheduler, triggerer, API server), a fake SendGrid, and S3 as moto serves it.

Some minutes: `nox -s tests_airflow` installs Airflow. SENDGRID_TASKS is how many mapped tasks run.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest

from sendgrid_exports import verify_download
from sendgrid_exports.testing import FakeSendGrid, FakeSubuser
from sendgrid_exports.testing.thread import ThreadedFakeSendGrid
from tests.components.conftest import end, free_port, serve_moto

if importlib.util.find_spec("airflow") is None:
    pytest.skip("apache-airflow is not installed: nox -s tests_airflow", allow_module_level=True)

ROOT = Path(__file__).parents[2]
TASKS = int(os.environ.get("SENDGRID_TASKS", "200"))
READY_AFTER = 20 + 1.5 * TASKS
SUBUSERS = ["anna", "bert"]
# By id: whether it waits in the triggerer.
EXAMPLES = {"sendgrid_contacts": True, "sendgrid_contacts_waiting": False}
BUCKET_KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAOFTHEBUCKETINTESTS",
    "AWS_SECRET_ACCESS_KEY": "thesecretofthebucketintests",
    "AWS_SESSION_TOKEN": "thesessionofthebucketintests",
}

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(2400)]


@attrs.frozen
class Airflow:
    """A running Airflow, through its REST API."""

    url: str
    home: Path
    fake: ThreadedFakeSendGrid

    def call(
        self, path: str, body: object = None, *, method: str | None = None, token: str = ""
    ) -> Any:
        request = urllib.request.Request(self.url + path, method=method)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def api(self, path: str, body: object = None, *, method: str | None = None) -> Any:
        return self.call(f"/api/v2{path}", body, method=method, token=self.token())

    def token(self) -> str:
        token: str = self.call("/auth/token")["access_token"]
        return token

    def connection(self) -> dict[str, str]:
        """Return what the form of a connection sends once its fields are filled in."""
        forms = self.call("/ui/connections/hook_meta", token=self.token())
        [form] = [form for form in forms if form["connection_type"] == "sendgrid"]
        filled = {"password": self.fake.api_key, "host": self.fake.base_url}
        fields = form["standard_fields"]
        assert not any((fields[name] or {}).get("hidden") for name in filled)
        return {"connection_id": "sendgrid_default", "conn_type": "sendgrid", **filled}

    def pause(self, dag_id: str, *, paused: bool) -> None:
        self.api(f"/dags/{dag_id}", {"is_paused": paused}, method="PATCH")

    def start(self, dag_id: str) -> str:
        """Start a run of a DAG, and return the path of the run in the API."""
        self.pause(dag_id, paused=False)
        self.api(f"/dags/{dag_id}/dagRuns", {"logical_date": None})
        return self.runs(dag_id)[0]

    def runs(self, dag_id: str) -> list[str]:
        """Return the paths of the runs of a DAG, the newest first."""
        found = self.api(f"/dags/{dag_id}/dagRuns?order_by=-id")["dag_runs"]
        ids = [urllib.parse.quote(run["dag_run_id"]) for run in found]
        return [f"/dags/{dag_id}/dagRuns/{each}" for each in ids]

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
def s3() -> Iterator[Any]:
    """A client of boto3 for an S3 with one bucket, which the environment leads to."""
    boto3 = pytest.importorskip("boto3", reason="moto is not installed: nox -s tests_airflow")
    with serve_moto() as url, pytest.MonkeyPatch.context() as patch:
        settings = {"AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}
        for name, value in {**settings, **BUCKET_KEYS}.items():
            patch.setenv(name, value)
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="lake")
        yield client


def write_examples(folder: Path) -> None:
    """Write the example, with short delays, and a second one that waits in a worker."""
    text = (ROOT / "examples/airflow_dag.py").read_text()
    assert "timedelta(minutes=5)" in text
    # On a busy machine the scheduler fails tasks that resume before their worker's exit is noted.
    text = text.replace("timedelta(minutes=5)", "timedelta(seconds=1)")
    (folder / "example.py").write_text(text)
    for old, new in {
        '"sendgrid_contacts"': '"sendgrid_contacts_waiting"',
        '"deferrable": True': '"deferrable": False',
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "example_waiting.py").write_text(text)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, s3: Any) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    shutil.copytree(ROOT / "tests/components/airflow_dags", home / "dags")
    write_examples(home / "dags")
    port = free_port()
    subusers = [
        *(FakeSubuser(f"account-{n}", contacts=5, ready_after=READY_AFTER) for n in range(TASKS)),
        *(FakeSubuser(name, contacts=7, files=2, ready_after=5.0) for name in SUBUSERS),
    ]
    with FakeSendGrid.in_thread(contacts=20, ready_after=5.0, subusers=subusers) as fake:
        settings = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of these tests, long enough for HS512 " * 2,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "1000",
            "AIRFLOW__CORE__PARALLELISM": "6",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            # The triggerer imports a trigger of the tests from there.
            "PYTHONPATH": str(home / "dags"),
            "SENDGRID_DIRECTORY": str(home / "exports"),
            "SENDGRID_SECONDS": str(READY_AFTER),
            "SENDGRID_SUBUSERS": " ".join(SUBUSERS),
            "SENDGRID_TARGET": "s3://lake/contacts",
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
            until(lambda: {"many", *EXAMPLES} <= {*dags(running)}, 300)
            running.api("/connections", running.connection())
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


@pytest.fixture(scope="module")
def backups(airflow: Airflow) -> list[dict[str, Any]]:
    """What the operator returned in the example's runs, which have both modes."""
    results: list[dict[str, Any]] = []
    for dag_id, is_deferrable in EXAMPLES.items():
        # Once it is not paused, its schedule has a run for the last midnight.
        airflow.pause(dag_id, paused=False)
        [run] = until(partial(airflow.runs, dag_id))
        seen = set()
        while airflow.api(run)["state"] not in {"success", "failed"}:
            seen |= {task["state"] for task in airflow.tasks(run)}
        airflow.pause(dag_id, paused=True)
        assert ("deferred" in seen) is is_deferrable
        assert sum(airflow.finish(run)["read"].values()) == 20
        results += [
            airflow.result(run, task)
            for task in airflow.tasks(run)
            if task["task_id"] in {"account", "subusers"}
        ]
    return results


def test_the_button_of_the_form_says_that_the_key_may_export(airflow: Airflow) -> None:
    tested = airflow.api("/connections/test", airflow.connection())
    assert tested == {
        "status": True,
        "message": "SendGrid accepts the API key, and it may export contacts.",
    }


def test_the_example_fills_a_bucket_in_both_modes(
    airflow: Airflow, s3: Any, backups: list[dict[str, Any]]
) -> None:
    assert {result["contacts"] for result in backups} == {20, 7}
    expected: dict[str, str | None] = {}
    for result in backups:
        report = asyncio.run(verify_download(result["target"], result["id"], deep=True))
        assert report.ok
        assert report.verified == tuple(file["url"] for file in result["files"])
        expected |= {file["url"]: file["sha256"] for file in result["files"]}
        expected[f"{result['target']}/{result['id']}.manifest.json"] = None
    found = s3.list_objects_v2(Bucket="lake")
    assert not found["IsTruncated"]
    urls = {f"s3://lake/{one['Key']}" for one in found["Contents"]}
    # Where Airflow has no state store for tasks, each has a claim.
    assert {url for url in urls if not url.endswith(".claim")} == {*expected}
    for url, digest in expected.items():
        body = s3.get_object(Bucket="lake", Key=url.removeprefix("s3://lake/"))["Body"].read()
        assert digest is None or hashlib.sha256(body).hexdigest() == digest
    assert s3.list_multipart_uploads(Bucket="lake").get("Uploads", []) == []


def test_no_secret_is_in_a_log_an_xcom_or_the_database(
    airflow: Airflow, backups: list[dict[str, Any]]
) -> None:
    results = [*backups, *airflow.finish(airflow.start("modes")).values()]
    files: dict[Path, bytes] = {}
    for path in airflow.home.rglob("*"):
        with suppress(OSError):  # a file of the database may be gone, or it is a directory
            files[path] = path.read_bytes()
    logs = b"".join(data for path, data in files.items() if path.suffix == ".log")
    with closing(sqlite3.connect(f"file:{airflow.home}/airflow.db?mode=ro", uri=True)) as database:
        dump = "\n".join(database.iterdump()).encode()
    for result in results:  # what must be found is found
        assert result["id"].encode() in logs
        assert result["id"].encode() in dump
    files[Path("dump")] = dump
    queries = {request.query for request in airflow.fake.storage_requests}
    signatures = {dict(urllib.parse.parse_qsl(query))["X-Amz-Signature"] for query in queries}
    assert signatures
    names = ["X-Amz-Signature", "X-Amz-Credential"]
    secrets = [airflow.fake.api_key, *names, *signatures, *BUCKET_KEYS.values()]
    leaks = [
        (str(path), secret)
        for path, data in files.items()
        for secret in secrets
        if secret.encode() in data
    ]
    assert leaks == []
