"""The integration with Apache Airflow, in Airflow itself: `nox -s tests_airflow` installs it."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blockbuster import BlockBuster

from sendgrid_exports import RateLimitedError
from sendgrid_exports.testing import FakeSendGrid, FakeSubuser
from sendgrid_exports.testing.thread import ThreadedFakeSendGrid

if importlib.util.find_spec("airflow") is None:
    pytest.skip("apache-airflow is not installed: nox -s tests_airflow", allow_module_level=True)

# Airflow warns of itself, and of what it runs with.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

DAGS = Path(__file__).with_name("airflow_dags")
EXAMPLE = Path(__file__).parents[2] / "examples" / "airflow_dag.py"
SUBUSERS = ["anna", "bert"]

MakeFake = Callable[..., ThreadedFakeSendGrid]


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give Airflow a home with a database of its own, before anything of it is imported."""
    assert "airflow.settings" not in sys.modules
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    for dag in (EXAMPLE, *DAGS.glob("*.py")):
        (home / "dags" / dag.name).write_text(dag.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_HOME", str(home))
        patch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
        patch.setenv("SENDGRID_DIRECTORY", str(home / "exports"))
        patch.setenv("SENDGRID_TARGET", str(home / "exports"))
        patch.setenv("SENDGRID_SUBUSERS", " ".join(SUBUSERS))
        migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
        subprocess.run(migrate, check=True, capture_output=True)
        yield home


@pytest.fixture
def make_fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeFake]:
    """Return a function that starts a service, and makes it the default connection."""
    stack = []

    def make(*, connection: dict[str, Any] | None = None, **options: Any) -> ThreadedFakeSendGrid:
        running = FakeSendGrid.in_thread(**{"contacts": 20, "ready_after": 0, **options})
        stack.append(running)
        fake = running.__enter__()
        connect(monkeypatch, password=fake.api_key, host=fake.base_url, **(connection or {}))
        return fake

    yield make
    for running in reversed(stack):
        running.__exit__(None, None, None)


def connect(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    from airflow.sdk.execution_time.cache import SecretCache

    SecretCache.reset()
    connection = json.dumps({"conn_type": "sendgrid", **fields})
    monkeypatch.setenv("AIRFLOW_CONN_SENDGRID_DEFAULT", connection)


def starts(fake: ThreadedFakeSendGrid) -> int:
    return len([request for request in fake.api_requests if request.method == "POST"])


# What Airflow finds


def test_the_provider_satisfies_airflows_own_schema() -> None:
    import airflow
    import jsonschema

    from sendgrid_exports.integrations.airflow import SendGridHook
    from sendgrid_exports.integrations.airflow_provider import get_provider_info

    [folder] = map(Path, airflow.__path__[:1])
    schema = json.loads((folder / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)
    form = json.loads((folder / "customized_form_field_behaviours.schema.json").read_text())
    jsonschema.validate(SendGridHook.get_ui_field_behaviour(), form)


def test_airflow_finds_the_provider_and_its_connection_type() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()
    assert "sendgrid-exports" in manager.providers
    hook = manager.hooks["sendgrid"]
    assert hook is not None
    assert hook.package_name == "sendgrid-exports"
    assert hook.connection_id_attribute_name == "sendgrid_conn_id"


FORM = """
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
[form] = [one for one in HookMetaService.hook_meta_data() if one.connection_type == "sendgrid"]
fields = form.standard_fields
hidden = [field.hidden for field in (fields.host, fields.login, fields.port, fields.url_schema)]
print(form.hook_name, fields.password.title, *hidden, sep=", ")
"""


def test_the_form_asks_for_the_key_and_the_host() -> None:
    # In a process of its own: Airflow 3.1 reads it only once, and not when it lists hooks.
    done = subprocess.run([sys.executable, "-c", FORM], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "SendGrid, API key, False, True, True, True"


# The connection


def test_a_connection_whose_key_may_export_is_good(make_fake: MakeFake) -> None:
    from sendgrid_exports.integrations.airflow import SendGridHook

    fake = make_fake()
    good, message = SendGridHook().test_connection()
    assert good
    assert "may export" in message
    assert [request.path for request in fake.api_requests] == ["/v3/scopes"]


@pytest.mark.parametrize(
    ("options", "connection", "said"),
    [
        ({"scopes": ["mail.send"]}, {}, "marketing.read"),
        ({}, {"password": "SG.wrong"}, "401"),
        ({}, {"password": ""}, "has no API key"),
        ({}, {"host": "http://api.sendgrid.test"}, "https://"),
    ],
)
def test_a_connection_that_can_not_export_says_why(
    make_fake: MakeFake, monkeypatch: pytest.MonkeyPatch, options: Any, connection: Any, said: str
) -> None:
    from sendgrid_exports.integrations.airflow import SendGridHook

    fake = make_fake(**options)
    fields = {"password": fake.api_key, "host": fake.base_url, **connection}
    connect(monkeypatch, **fields)
    good, message = SendGridHook().test_connection()
    assert not good
    assert said in message
    assert fake.api_key not in message


def test_the_extra_names_the_subuser_and_an_argument_another(
    make_fake: MakeFake, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sendgrid_exports.integrations.airflow import SendGridHook

    fake = make_fake()
    host, _, port = fake.base_url.rpartition(":")
    extra = json.dumps({"on_behalf_of": "anna"})
    connect(monkeypatch, password=fake.api_key, host=host, port=int(port), extra=extra)
    SendGridHook().test_connection()
    SendGridHook(on_behalf_of="bert").test_connection()
    asked = [request.headers["on-behalf-of"] for request in fake.api_requests]
    assert asked == ["anna", "bert"]


# The trigger; blockbuster fails these tests where it blocks the loop


async def one_event(trigger: Any) -> dict[str, str]:
    """Return the event of a trigger after its way to another process and back."""
    path, arguments = trigger.serialize()
    module, _, name = path.rpartition(".")
    restored = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))
    [event] = [event async for event in restored.run()]
    payload: dict[str, str] = event.payload
    return payload


def epoch(seconds: float) -> float:
    from sendgrid_exports import SystemClock

    return SystemClock().utc().timestamp() + seconds


def make_trigger(export_id: str, **arguments: Any) -> Any:
    from sendgrid_exports.integrations.airflow import SendGridExportTrigger

    return SendGridExportTrigger(
        export_id, **{"deadline": None, "sendgrid_conn_id": "sendgrid_default", **arguments}
    )


@pytest.mark.parametrize(
    ("statuses", "left", "status"),
    [
        (["pending", "ready"], 60, "ready"),
        (["failure"], 60, "failed"),
        (["pending"], 1, "error"),
        (["pending"], -1, "error"),
        (["ready"], None, "ready"),
    ],
)
async def test_the_event_is_a_status_an_id_and_a_message(
    make_fake: MakeFake, statuses: list[str], left: float | None, status: str
) -> None:
    fake = await asyncio.to_thread(make_fake)
    export_id = await asyncio.to_thread(fake.add_export, statuses=statuses)
    deadline = None if left is None else epoch(left)
    event = await one_event(make_trigger(export_id, deadline=deadline))
    assert event == {"status": status, "id": export_id, "message": event["message"]}
    assert export_id in event["message"]
    assert fake.storage_requests == []
    assert "X-Amz" not in str(event)
    assert fake.api_key not in str(event)


async def test_a_trigger_survives_an_api_that_is_down_for_a_moment(make_fake: MakeFake) -> None:
    fake = await asyncio.to_thread(make_fake)
    export_id = await asyncio.to_thread(fake.add_export, statuses=["ready"])
    await asyncio.to_thread(fake.respond, 503, on="status", times=2)
    assert (await one_event(make_trigger(export_id)))["status"] == "ready"


@pytest.mark.parametrize(("status", "told"), [(401, "failed"), (403, "failed"), (404, "error")])
async def test_a_refusal_that_no_retry_can_change_is_distinguished(
    make_fake: MakeFake, status: int, told: str
) -> None:
    fake = await asyncio.to_thread(make_fake)
    await asyncio.to_thread(fake.respond, status, on="status", times=None)
    assert (await one_event(make_trigger("an-id")))["status"] == told


async def test_triggers_of_a_connection_share_a_client_until_the_last_ends() -> None:
    from airflow.sdk import Connection

    from sendgrid_exports.integrations.airflow_connection import shared_client

    connection = Connection(conn_id="c", conn_type="sendgrid", password="SG.key")
    async with shared_client(connection, None) as one:
        async with shared_client(connection, None) as same, shared_client(connection, "x") as other:
            assert same is one
            assert other is not one
        async with shared_client(connection, None) as again:
            assert again is one
    with pytest.raises(RuntimeError, match="closed"):
        await one.get("an-id")
    async with shared_client(connection, None) as new:
        assert new is not one


async def test_triggers_for_subusers_share_the_pace_of_the_key(make_fake: MakeFake) -> None:
    from airflow.sdk import Connection

    from sendgrid_exports.integrations.airflow_connection import shared_client

    fake = await asyncio.to_thread(make_fake, subusers=[FakeSubuser("anna")])
    connection = Connection(
        conn_id="c", conn_type="sendgrid", password=fake.api_key, host=fake.base_url
    )
    spent = {
        "X-RateLimit-Limit": "1",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(time.time()) + 60),
    }
    await asyncio.to_thread(fake.respond, 429, headers=spent, on="status")
    async with shared_client(connection, None) as one, shared_client(connection, "anna") as other:
        with pytest.raises(RateLimitedError):
            await one.get("an-id")
        asking = asyncio.create_task(other.get("an-id"))
        asked, _ = await asyncio.wait({asking}, timeout=0.5)
        assert not asked
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


@pytest.mark.parametrize("extra", ["on_behalf_of=anna", '["anna"]'])
async def test_an_extra_that_is_not_an_object_is_explained(extra: str) -> None:
    from airflow.sdk import Connection

    from sendgrid_exports.integrations.airflow_connection import shared_client

    connection = Connection(conn_id="c", conn_type="sendgrid", password="SG.key", extra=extra)
    with pytest.raises(ValueError, match="extra of the connection c is not a JSON object"):
        async with shared_client(connection, None):
            pytest.fail("it can't be used")


async def test_a_hundred_triggers_wait_at_once(make_fake: MakeFake) -> None:
    fake = await asyncio.to_thread(make_fake, subusers=[FakeSubuser(n) for n in SUBUSERS])
    add = fake.add_export
    ids = [
        await asyncio.to_thread(add, statuses=["pending", "ready"], subuser=SUBUSERS[number % 2])
        for number in range(100)
    ]
    triggers = [make_trigger(i, on_behalf_of=SUBUSERS[n % 2]) for n, i in enumerate(ids)]
    events = await asyncio.gather(*map(one_event, triggers))
    assert [event["id"] for event in events] == ids
    assert {event["status"] for event in events} == {"ready"}


# The operator


@pytest.fixture
def run_dag(home: Path) -> Callable[..., dict[str, Any]]:
    """Return a function that runs a DAG of the folder, and returns its task instances."""

    def run(file: str, dag_id: str | None = None, **environment: str) -> dict[str, Any]:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.syspath_prepend(home / "dags")
            found = runpy.run_path(str(home / "dags" / file))
            dag_run = found[dag_id or "dag"].test()
            tasks = {}
            for ti in dag_run.get_task_instances():
                name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
                result = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index)
                tasks[name] = SimpleNamespace(state=ti.state, tries=ti.try_number, result=result)
            return tasks

    return run


def test_the_example_exports_an_account_and_its_subusers(make_fake: MakeFake, run_dag: Any) -> None:
    fake = make_fake(subusers=[FakeSubuser(name, contacts=5) for name in SUBUSERS])
    tasks = run_dag("airflow_dag.py")
    assert {task.state for task in tasks.values()} == {"success"}
    result = tasks["account"].result
    assert result["contacts"] == 20
    assert sum(tasks["read"].result.values()) == 20
    [file] = result["files"]
    assert {*file} == {"url", "size", "sha256"}
    assert file["url"].startswith(Path(result["target"]).as_uri())
    for number, name in enumerate(SUBUSERS):
        result = tasks[f"subusers[{number}]"].result
        assert result["contacts"] == 5
        assert f"/{name}/" in result["target"]
    assert starts(fake) == 3


def test_the_result_is_the_same_deferred_or_not(make_fake: MakeFake, run_dag: Any) -> None:
    make_fake(ready_after=3.0, files=2)
    tasks = run_dag("sendgrid_test_dags.py", "modes")
    deferred, waited = tasks["deferred"].result, tasks["waited"].result
    assert deferred.pop("id") != waited.pop("id")
    for result in (deferred, waited):
        result.pop("target")
        for file in result["files"]:
            assert file.pop("url").startswith("file:///")
    assert deferred == waited
    assert deferred["contacts"] == 20
    assert len(deferred["files"]) == 2


def test_a_failed_export_fails_without_a_retry(make_fake: MakeFake, run_dag: Any) -> None:
    fake = make_fake(statuses=["pending", "failure"], message="no such list", ready_after=None)
    tasks = run_dag("sendgrid_test_dags.py", "modes")
    assert {(task.state, task.tries) for task in tasks.values()} == {("failed", 1)}
    assert starts(fake) == 2


def test_a_wait_ends_with_the_execution_timeout_and_the_retry_resumes(
    make_fake: MakeFake, run_dag: Any
) -> None:
    fake = make_fake(statuses=["pending"], ready_after=None)
    tasks = run_dag("sendgrid_test_dags.py", "modes", SENDGRID_TIMEOUT="4")
    assert {(task.state, task.tries) for task in tasks.values()} == {("failed", 2)}
    assert starts(fake) == 2


def test_a_wait_ends_when_the_export_expires_and_the_retry_starts_another(
    make_fake: MakeFake, run_dag: Any
) -> None:
    fake = make_fake(
        statuses=["pending"], ready_after=None, file_lifetime=4, after_expiry="no_urls"
    )
    tasks = run_dag("sendgrid_test_dags.py", "modes")
    assert {(task.state, task.tries) for task in tasks.values()} == {("failed", 2)}
    assert starts(fake) == 4


def make_operator(**arguments: Any) -> Any:
    from sendgrid_exports.integrations.airflow import SendGridExportOperator

    return SendGridExportOperator(**{"task_id": "export", "deferrable": False, **arguments})


def make_context(operator: Any) -> dict[str, Any]:
    from airflow.sdk.execution_time.context import OutletEventAccessors

    known = {"dag_id": "dag", "run_id": "run", "task_id": "export", "map_index": -1}
    ti = SimpleNamespace(**known, max_tries=1, try_number=1)
    return {"ti": ti, "outlet_events": OutletEventAccessors()}


def test_a_killed_task_stops_at_once_and_names_the_export(
    make_fake: MakeFake,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    blockbuster: BlockBuster,
) -> None:
    blockbuster.deactivate()  # a signal's warning is logged in the thread of the loop
    fake = make_fake(statuses=["pending"], ready_after=None)
    operator = make_operator(target=str(tmp_path))
    previous = signal.signal(signal.SIGUSR1, lambda *_: operator.on_kill())

    def kill() -> None:
        while len(fake.api_requests) < 4:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGUSR1)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(asyncio.CancelledError):
            operator.execute(make_context(operator))
    finally:
        killer.join()
        signal.signal(signal.SIGUSR1, previous)
    [claim] = tmp_path.glob("*.claim")
    export_id = json.loads(claim.read_text())["id"]
    assert f"Export {export_id} continues at SendGrid" in capsys.readouterr().out
    operator.on_kill()  # what has ended is not cancelled again
    with pytest.raises(asyncio.CancelledError):
        operator.execute(make_context(operator))  # a kill between two calls of SendGrid counts
    assert starts(fake) == 1


def test_the_outlet_is_the_target(make_fake: MakeFake, tmp_path: Path) -> None:
    from airflow.sdk import Asset, AssetAlias

    make_fake()
    operator = make_operator(target=str(tmp_path))
    [outlet] = operator.outlets
    assert outlet == Asset(uri=tmp_path.as_uri())
    context = make_context(operator)
    result = operator.execute(context)
    assert context["outlet_events"][outlet].extra == {"id": result["id"], "contacts": 20}
    [outlet] = make_operator(target="s3://lake/sendgrid").outlets
    assert outlet == Asset(uri="s3://lake/sendgrid")
    [outlet] = make_operator(target=f"{tmp_path}/{{{{ ds }}}}").outlets
    assert isinstance(outlet, AssetAlias)
    assert make_operator(target=str(tmp_path), outlets=[]).outlets == []


def test_an_alias_gets_the_rendered_target(make_fake: MakeFake, tmp_path: Path) -> None:
    from airflow.sdk import Asset

    make_fake()
    operator = make_operator(target=f"{tmp_path}/{{{{ day }}}}")
    operator.render_template_fields({"day": "today"})
    context = make_context(operator)
    operator.execute(context)
    [event] = context["outlet_events"][operator.outlets[0]].asset_alias_events
    assert event.dest_asset_key.uri == Asset(uri=(tmp_path / "today").as_uri()).uri


def test_openlineage_gets_what_was_written(make_fake: MakeFake, tmp_path: Path) -> None:
    pytest.importorskip(
        "airflow.providers.openlineage", reason="the OpenLineage provider is not installed"
    )
    make_fake()
    operator = make_operator(target=str(tmp_path))
    nothing = operator.get_openlineage_facets_on_complete(None)
    assert (nothing.inputs, nothing.outputs) == ([], [])
    result = operator.execute(make_context(operator))
    lineage = operator.get_openlineage_facets_on_complete(None)
    [output] = lineage.outputs
    assert (output.namespace, output.name) == ("file", str(tmp_path))
    statistics = output.outputFacets["outputStatistics"]
    assert statistics.rowCount == 20
    assert statistics.size == result["files"][0]["size"]


@pytest.mark.parametrize("region", ["global", "eu"])
def test_openlineage_names_the_host_of_the_connection(
    make_fake: MakeFake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, region: Any
) -> None:
    pytest.importorskip(
        "airflow.providers.openlineage", reason="the OpenLineage provider is not installed"
    )
    fake = make_fake(subusers=[FakeSubuser("anna", region=region)])
    url = fake.eu_base_url if region == "eu" else fake.base_url
    connect(monkeypatch, password=fake.api_key, host=url)
    operator = make_operator(target=str(tmp_path), on_behalf_of="anna")
    operator.execute(make_context(operator))
    [source] = operator.get_openlineage_facets_on_complete(None).inputs
    host = url.removeprefix("http://")
    assert (source.namespace, source.name) == (f"sendgrid://{host}", "contacts")


@pytest.mark.parametrize(
    ("status", "retried"), [(401, False), (400, False), (503, True), (None, True)]
)
def test_only_what_is_transient_is_retried(
    make_fake: MakeFake, tmp_path: Path, status: int | None, *, retried: bool
) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    from sendgrid_exports import SendGridExportsError

    fake = make_fake()
    fake.respond(status, on="start", times=None)
    operator = make_operator(target=str(tmp_path))
    with pytest.raises(SendGridExportsError if retried else AirflowFailException) as caught:
        operator.execute(make_context(operator))
    assert fake.api_key not in str(caught.value)


def test_bad_arguments_are_not_retried(make_fake: MakeFake, tmp_path: Path) -> None:
    from airflow.providers.common.compat.sdk import AirflowFailException

    fake = make_fake()
    operator = make_operator(target=str(tmp_path), file_type="xml")
    with pytest.raises(AirflowFailException, match="file_type"):
        operator.execute(make_context(operator))
    assert starts(fake) == 0


def test_the_default_of_deferrable_is_airflows(tmp_path: Path) -> None:
    code = (
        "from sendgrid_exports.integrations.airflow import SendGridExportOperator as Operator\n"
        "print(Operator(task_id='t', target='/exports').deferrable)"
    )
    environment = {**os.environ, "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "True"


def test_time_in_the_triggerer_counts_for_the_execution_timeout(
    make_fake: MakeFake, tmp_path: Path
) -> None:
    from airflow.providers.common.compat.sdk import TaskDeferred

    make_fake(statuses=["pending"], ready_after=None)
    operator = make_operator(
        target=str(tmp_path), deferrable=True, execution_timeout=timedelta(minutes=10)
    )
    before = epoch(600)
    with pytest.raises(TaskDeferred) as caught:
        operator.execute(make_context(operator))
    assert before <= caught.value.trigger.deadline <= epoch(600)
    assert caught.value.kwargs == {"deadline": caught.value.trigger.deadline}
    assert caught.value.timeout > timedelta(minutes=10)
    event = {"status": "ready", "id": caught.value.trigger.export_id, "message": ""}
    with pytest.raises(TimeoutError):
        operator.execute_complete(make_context(operator), event, deadline=epoch(-1))
