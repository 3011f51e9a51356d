"""A retry of an Airflow task never starts a second export. Runs without Airflow."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sendgrid_exports import (
    APIError,
    AuthenticationError,
    ExportClient,
    ExportStatus,
    ServerError,
    TransportError,
)
from sendgrid_exports.integrations.airflow_claim import Claim, find_or_start
from sendgrid_exports.testing import FakeClock, FakeSendGrid

pytestmark = pytest.mark.fake_sendgrid(contacts=3)

ROOT = Path(__file__).parents[2]

NewTry = Callable[..., Awaitable[Claim]]


class Store(dict[str, Any]):
    """A state store of a task instance, as Airflow 3.3 has it: JSON in, JSON out."""

    def set(self, key: str, value: object) -> None:
        self[key] = json.loads(json.dumps(value))


def task_instance(**changes: Any) -> SimpleNamespace:
    known = {"dag_id": "dag", "run_id": "run", "task_id": "export", "map_index": -1}
    return SimpleNamespace(**{**known, "max_tries": 1, "try_number": 1, **changes})


@pytest.fixture(params=["directory", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"memory:/{tmp_path}/exports" if request.param == "bucket" else str(tmp_path / "exports")


@pytest.fixture(params=["state store", "target"])
def new_try(request: pytest.FixtureRequest, target: str) -> NewTry:
    """Return a function that returns what a new try of one task instance knows."""
    context: dict[str, Any] = {}
    if request.param == "state store":
        context["task_state_store"] = Store()

    async def make(**changes: Any) -> Claim:
        claimed = {**context, "ti": task_instance(**changes)}
        return await asyncio.to_thread(Claim, claimed, target)

    return make


@pytest.fixture
def begin(client: ExportClient, clock: FakeClock) -> Callable[..., Any]:
    async def begin(claim: Claim, **arguments: Any) -> tuple[str, Any]:
        what = {"list_ids": (), "segment_ids": (), "file_type": "csv", "max_file_size": None}
        return await find_or_start(client, claim, **{**what, **arguments}, clock=clock)

    return begin


def starts(fake: FakeSendGrid) -> int:
    return len([request for request in fake.api_requests if request.method == "POST"])


async def test_a_retry_resumes_the_export(
    fake: FakeSendGrid, new_try: NewTry, begin: Callable[..., Any]
) -> None:
    first, seen = await begin(await new_try())
    assert seen.status is ExportStatus.READY
    assert (await new_try()).known["id"] == first
    assert (await begin(await new_try()))[0] == first
    assert starts(fake) == 1


async def test_the_id_is_kept_before_the_first_poll(
    fake: FakeSendGrid, new_try: NewTry, begin: Callable[..., Any]
) -> None:
    fake.respond(401, on="status")
    with pytest.raises(AuthenticationError):
        await begin(await new_try())
    await begin(await new_try())
    assert starts(fake) == 1


@pytest.mark.fake_sendgrid(statuses=["pending"])
async def test_an_export_that_is_not_ready_is_returned_as_it_is(
    new_try: NewTry, begin: Callable[..., Any]
) -> None:
    _, seen = await begin(await new_try())
    assert seen.status is ExportStatus.PENDING
    assert seen.expires_at is not None


@pytest.mark.parametrize("status", [None, 408, 502])
async def test_an_export_whose_start_was_not_answered_is_found_in_the_list(
    fake: FakeSendGrid, new_try: NewTry, begin: Callable[..., Any], status: int | None
) -> None:
    fake.respond(status, on="start", processed=True)
    with pytest.raises((TransportError, APIError)):
        await begin(await new_try(), list_ids=["a", "b"])
    export_id, _ = await begin(await new_try(), list_ids=["b", "a"])
    assert starts(fake) == 1
    assert (await new_try()).known["id"] == export_id


async def test_an_export_that_never_began_is_started_by_the_retry(
    fake: FakeSendGrid, new_try: NewTry, begin: Callable[..., Any]
) -> None:
    fake.respond(502, on="start")
    with pytest.raises(ServerError):
        await begin(await new_try())
    export_id, _ = await begin(await new_try())
    assert (await new_try()).known["id"] == export_id


@pytest.mark.parametrize(
    "other",
    [
        {"list_ids": ["b"]},
        {"segment_ids": ["a"]},
        {"list_ids": ["a"], "file_type": "json"},
        {},
    ],
    ids=str,
)
async def test_an_export_of_other_contacts_is_not_taken(
    fake: FakeSendGrid, client: ExportClient, new_try: NewTry, begin: Any, other: dict[str, Any]
) -> None:
    fake.respond(502, on="start")
    with pytest.raises(ServerError):
        await begin(await new_try(), list_ids=["a"])
    other_id = await client.start(**other)
    await client.wait(other_id)
    export_id, _ = await begin(await new_try(), list_ids=["a"])
    assert export_id != other_id


async def test_an_export_of_an_earlier_run_is_not_taken(
    fake: FakeSendGrid, client: ExportClient, new_try: NewTry, begin: Any, clock: FakeClock
) -> None:
    earlier = await client.start()
    clock.advance(3600)
    fake.respond(502, on="start")
    with pytest.raises(ServerError):
        await begin(await new_try())
    export_id, _ = await begin(await new_try())
    assert export_id != earlier


async def test_a_refused_start_leaves_nothing_to_look_for(
    fake: FakeSendGrid, client: ExportClient, new_try: NewTry, begin: Callable[..., Any]
) -> None:
    fake.respond(401, on="start")
    with pytest.raises(AuthenticationError):
        await begin(await new_try())
    other_id = await client.start()
    export_id, _ = await begin(await new_try())
    assert export_id != other_id


async def test_an_api_that_is_down_does_not_make_a_retry_start_another(
    fake: FakeSendGrid, new_try: NewTry, begin: Callable[..., Any]
) -> None:
    first, _ = await begin(await new_try())
    fake.respond(503, on="status", times=None)
    assert await begin(await new_try()) == (first, None)
    assert starts(fake) == 1


async def test_a_run_that_is_cleared_after_its_success_exports_again(
    fake: FakeSendGrid, new_try: NewTry, begin: Callable[..., Any]
) -> None:
    first, _ = await begin(claim := await new_try())
    await asyncio.to_thread(claim.keep, {**claim.known, "done": 1})
    assert (await begin(await new_try()))[0] == first  # the worker died before Airflow was told
    second, _ = await begin(await new_try(max_tries=3))
    assert second != first
    assert (await begin(await new_try(max_tries=3)))[0] == second


async def test_a_run_that_is_cleared_before_its_success_resumes(
    fake: FakeSendGrid, new_try: NewTry, begin: Callable[..., Any]
) -> None:
    first, _ = await begin(await new_try())
    assert (await begin(await new_try(max_tries=3)))[0] == first


@pytest.mark.fake_sendgrid(statuses=["failure"])
async def test_after_a_failed_export_a_cleared_run_starts_another(
    fake: FakeSendGrid, new_try: NewTry, begin: Callable[..., Any]
) -> None:
    first, seen = await begin(await new_try())
    assert seen.status is ExportStatus.FAILURE
    assert (await begin(await new_try()))[0] != first


@pytest.mark.parametrize("after_expiry", ["not_found", "no_urls", "dead_urls"])
async def test_after_an_expired_export_a_retry_starts_another(
    fake: FakeSendGrid, clock: FakeClock, new_try: NewTry, begin: Any, after_expiry: Any
) -> None:
    fake.after_expiry = after_expiry
    first, _ = await begin(await new_try())
    clock.advance(fake.file_lifetime)
    assert (await begin(await new_try()))[0] != first


async def test_task_instances_that_share_a_target_have_exports_of_their_own(
    target: str, begin: Callable[..., Any]
) -> None:
    def claim(map_index: int) -> Claim:
        return Claim({"ti": task_instance(map_index=map_index)}, target)

    first, _ = await begin(await asyncio.to_thread(claim, 0))
    second, _ = await begin(await asyncio.to_thread(claim, 1))
    assert first != second
    assert (await begin(await asyncio.to_thread(claim, 0)))[0] == first


async def test_two_tries_at_once_start_one_export(
    fake: FakeSendGrid, target: str, begin: Callable[..., Any]
) -> None:
    context = {"ti": task_instance()}
    one, other = [await asyncio.to_thread(Claim, context, target) for _ in range(2)]
    await begin(one)
    with pytest.raises(FileExistsError):
        await begin(other)
    assert starts(fake) == 1


def test_a_claim_that_was_cut_short_says_when_it_was_made(tmp_path: Path) -> None:
    context = {"ti": task_instance()}
    Claim(context, str(tmp_path)).keep({})
    [path] = tmp_path.iterdir()
    path.write_text("")
    assert Claim(context, str(tmp_path)).known == {"since": path.stat().st_mtime}


def test_the_provider_is_found_and_described_without_airflow() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [reference] = project["entry-points"]["apache_airflow_provider"].values()
    code = (
        "import pkgutil, sys; sys.modules['airflow'] = None\n"
        f"info = pkgutil.resolve_name({reference!r})()\n"
        "import sendgrid_exports.integrations.airflow_claim\n"
        "print(info['package-name'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{project['name']}\n"
