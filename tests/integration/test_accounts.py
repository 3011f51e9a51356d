"""Many accounts at once: each with its result, none exported twice, whatever else fails."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from obstore.store import LocalStore, MemoryStore

from sendgrid_exports import (
    AccountResult,
    APIError,
    Bucket,
    DownloadError,
    DownloadInProgressError,
    DownloadPolicy,
    Event,
    ExportClient,
    ExportFailedError,
    ExportRequest,
    ExportStarted,
    ExportTimeoutError,
    PermissionDeniedError,
    PollPolicy,
    ServerError,
    export_accounts,
    find_exports,
)
from sendgrid_exports.disk import Disk
from sendgrid_exports.testing import FakeClock, FakeSendGrid, FakeSubuser, Stall
from sendgrid_exports.timing import ServerClock
from sendgrid_exports.transfer.claim import CLAIMS, claim_object
from tests.integration.conftest import MakeClient, MakeFake, check_claims

DATE = "2026-03-02"

Place: TypeAlias = Path | Bucket


async def export_all(
    parent: ExportClient, target: Place, names: Iterable[str], **options: Any
) -> dict[str, AccountResult]:
    clients = [parent.for_subuser(name) for name in names]
    found = [account async for account in export_accounts(target, clients, **options)]
    assert len({account.name for account in found}) == len(found)
    return {account.name: account for account in found}


async def starts(parent: ExportClient, names: Iterable[str]) -> dict[str, int]:
    """Return how many exports each account has at SendGrid."""
    return {name: len(await parent.for_subuser(name).list_exports()) for name in names}


def asked_to_start(fake: FakeSendGrid) -> bool:
    return any(request.method == "POST" for request in fake.api_requests)


def verified(accounts: dict[str, AccountResult]) -> dict[str, int | None]:
    return {
        name: account.result.contact_count
        for name, account in accounts.items()
        if account.result is not None
    }


@pytest.fixture(params=["directory", "bucket"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Return the same pattern in a directory, and in a bucket whose objects are files there."""
    pattern = "{account}/{date}"
    return tmp_path / pattern if request.param == "directory" else bucket_of(tmp_path) / pattern


def bucket_of(directory: Path) -> Bucket:
    return Bucket(LocalStore(directory))


def is_cleared(path: Path) -> bool:
    """Whether a file is the claim of an account whose start has an answer."""
    return path.parent.name == CLAIMS and json.loads(path.read_bytes())["starting_at"] is None


@pytest.fixture
def left_behind(tmp_path: Path) -> Any:
    """Return a function that lists what is no file of an export, manifest or cleared claim."""

    def find() -> list[str]:
        return [
            path.name
            for path in tmp_path.rglob("*")
            if path.is_file()
            if not path.name.endswith((".csv.gz", ".manifest.json")) and not is_cleared(path)
        ]

    return find


async def test_every_account_has_its_own_directory_and_its_own_contacts(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, target: Place, left_behind: Any
) -> None:
    names = ["a", "Agency", "agency", "a/b"]
    fake = await make_fake(
        subusers=[FakeSubuser(name, contacts=n + 1) for n, name in enumerate(names)]
    )
    parent = make_client(fake)
    clients = (parent.for_subuser(subuser) async for subuser in parent.subusers())
    found = {account.name: account async for account in export_accounts(target, clients)}
    assert verified(found) == dict(zip(names, [1, 2, 3, 4], strict=True))
    places = [account.result.target for account in found.values() if account.result]
    assert {place.name for place in places} == {DATE}
    assert len({str(place).lower() for place in places}) == 4
    assert target.parent.parent / "a" / DATE in places
    for name, account in found.items():
        assert account.result is not None
        [file] = account.result.files
        path = Path(url2pathname(urlsplit(file.url).path))
        assert path.is_relative_to(tmp_path)
        assert gzip.decompress(path.read_bytes()).count(b"@") >= names.index(name) + 1
    assert left_behind() == []


async def test_one_account_that_fails_stops_no_other(
    make_fake: MakeFake, make_client: MakeClient, target: Place, tmp_path: Path, left_behind: Any
) -> None:
    fake = await make_fake(
        subusers=[
            FakeSubuser("failing", statuses=["pending", "failure"], message="no contacts"),
            FakeSubuser("disabled", disabled=True),
            FakeSubuser("endless", statuses=["pending"]),
            FakeSubuser("in eu", region="eu"),
            *(FakeSubuser(f"sound-{n}", contacts=n + 1) for n in range(5)),
        ]
    )
    parent = make_client(fake, eu_base_url=fake.eu_base_url)
    clients = {one.username: parent.for_subuser(one) async for one in parent.subusers()}
    clients["unknown"] = parent.for_subuser("unknown")
    endless, others_ended = clients.pop("endless"), asyncio.Event()

    async def endless_last() -> AsyncIterator[ExportClient]:
        for client in clients.values():
            yield client
        # Its two hours pass on the clock of all within a moment.
        await others_ended.wait()
        yield endless

    found: dict[str, AccountResult] = {}
    async for account in export_accounts(target, endless_last(), jobs=3, timeout=7200):
        found[account.name] = account
        if len(found) == len(clients):
            others_ended.set()
    assert verified(found) == {"in eu": 1000, **{f"sound-{n}": n + 1 for n in range(5)}}
    errors = {name: type(account.error) for name, account in found.items() if account.error}
    assert errors == {
        "failing": ExportFailedError,
        "disabled": PermissionDeniedError,
        "endless": ExportTimeoutError,
        "unknown": PermissionDeniedError,
    }
    # Nothing is left of an account that could not even be asked for.
    assert not (tmp_path / "disabled" / DATE).exists()


async def test_a_directory_that_cannot_be_used_is_the_error_of_its_account(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, target: Place
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a"), FakeSubuser("b")])
    (tmp_path / "a").write_text("a file")
    found = await export_all(make_client(fake), target, "ab")
    assert isinstance(found["a"].error, ValueError | DownloadError)
    assert verified(found) == {"b": 1000}
    assert await starts(make_client(fake), "ab") == {"a": 0, "b": 1}


async def test_results_come_as_they_are_ready(
    make_fake: MakeFake, make_client: MakeClient, target: Place
) -> None:
    fake = await make_fake(
        subusers=[FakeSubuser("endless", statuses=["pending"]), FakeSubuser("b")]
    )
    parent = make_client(fake)
    clients = [parent.for_subuser(name) for name in ("endless", "b")]
    async with aclosing(export_accounts(target, clients, timeout=10 * 3600)) as accounts:
        assert (await anext(accounts)).name == "b"


async def test_no_more_than_the_jobs_are_in_flight_and_none_waits_once_it_is_started(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock
) -> None:
    names = [f"{n}" for n in range(20)]
    fake = await make_fake(subusers=[FakeSubuser(name, ready_after=600) for name in names])
    parent = make_client(fake)
    in_flight: set[str | None] = set()
    most = 0

    def note(event: Event) -> None:
        nonlocal most
        if isinstance(event, ExportStarted):
            in_flight.add(event.account)
            most = max(most, len(in_flight))

    clients = [parent.for_subuser(name) for name in names]
    async for account in export_accounts(target, clients, jobs=3, on_event=note):
        assert account.result is not None
        created = account.result.export.created_at
        assert created is not None
        assert clock.utc() - created < timedelta(hours=1)
        in_flight.remove(account.name)
    assert most == 3
    assert clock.monotonic() - 1000 >= 20 / 3 * 600


async def test_every_event_names_its_account(
    make_fake: MakeFake, make_client: MakeClient, target: Place, events: list[Event]
) -> None:
    fake = await make_fake(subusers=[FakeSubuser(name) for name in "abc"])
    await export_all(make_client(fake), target, "abc", on_event=events.append)
    ids = {(event.account, event.export_id) for event in events}
    assert {account for account, _ in ids} == set("abc")
    assert len(ids) == 3


async def test_a_second_run_the_same_night_asks_for_nothing(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser(name) for name in "abc"])
    first = await export_all(make_client(fake), target, "abc")
    before = len(fake.requests)
    # It counts from the start of an export: the date may have changed meanwhile.
    clock.advance(11.9 * 3600)
    assert clock.utc().hour < 22
    again = await export_all(make_client(fake), target, "abc")
    assert len(fake.requests) == before
    assert verified(again) == verified(first)


async def test_a_run_after_midnight_finds_what_the_one_before_has_done(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock, tmp_path: Path
) -> None:
    fake = await make_fake(subusers=[FakeSubuser(name) for name in "abc"])
    clock.advance(14 * 3600)
    await export_all(make_client(fake), target, "ab")
    clock.advance(3600)
    found = await export_all(make_client(fake), target, "abc")
    assert await starts(make_client(fake), "abc") == {"a": 1, "b": 1, "c": 1}
    places = {name: each.result.target for name, each in found.items() if each.result}
    base = target.parent.parent
    assert places["a"] == base / "a" / DATE
    assert places["c"] == base / "c" / "2026-03-03"
    assert not (tmp_path / "a" / "2026-03-03").exists()


@pytest.mark.parametrize("pattern", ["{account}/{date}", "{account}"])
async def test_a_run_the_next_night_exports_anew(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, clock: FakeClock, pattern: str
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    for _ in range(2):
        found = await export_all(make_client(fake), tmp_path / pattern, "a")
        assert verified(found) == {"a": 1000}
        clock.advance(23 * 3600)
    assert len([*tmp_path.rglob("*.csv.gz")]) == 2


async def test_what_was_damaged_since_is_downloaded_again_without_another_export(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, target: Place
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    await export_all(make_client(fake), target, "a")
    [file] = tmp_path.rglob("*.csv.gz")
    file.unlink()
    assert verified(await export_all(make_client(fake), target, "a")) == {"a": 1000}
    assert await starts(make_client(fake), "a") == {"a": 1}


@pytest.mark.parametrize("stop_after", range(4))
async def test_a_run_that_was_stopped_is_resumed_and_starts_nothing_twice(
    make_fake: MakeFake,
    make_client: MakeClient,
    tmp_path: Path,
    target: Place,
    stop_after: int,
    left_behind: Any,
) -> None:
    names = [f"{n}" for n in range(8)]
    fake = await make_fake(subusers=[FakeSubuser(name, ready_after=60) for name in names])
    fake.inject(Stall(after=100), times=3)
    parent = make_client(fake)
    clients = [parent.for_subuser(name) for name in names]
    downloading = asyncio.Event()

    def note(event: Event) -> None:
        if type(event).__name__ == "FileStarted":
            downloading.set()

    async def run() -> None:
        async with aclosing(export_accounts(target, clients, jobs=4, on_event=note)) as accounts:
            async for _ in accounts:
                pass

    running = asyncio.create_task(run())
    if stop_after == 0:
        while not asked_to_start(fake):
            await asyncio.sleep(0)
    elif stop_after == 1:
        await downloading.wait()
    elif stop_after == 2:
        while not [*tmp_path.rglob("*.csv.gz")]:
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not [*tmp_path.rglob("*.lock")]
    fake.clear_faults()
    found = await export_all(make_client(fake), target, names)
    assert verified(found) == dict.fromkeys(names, 1000)
    assert await starts(make_client(fake), names) == dict.fromkeys(names, 1)
    assert left_behind() == []


async def test_an_export_whose_start_was_never_answered_is_found_in_the_list(
    make_fake: MakeFake, make_client: MakeClient, target: Place, left_behind: Any
) -> None:
    fake = await make_fake(statuses=["ready"], subusers=[FakeSubuser("a", statuses=["ready"])])
    fake.respond(None, on="start", processed=True)
    found = await export_all(make_client(fake), target, "a")
    assert verified(found) == {"a": 1000}
    assert await starts(make_client(fake), "a") == {"a": 1}
    assert left_behind() == []


async def test_a_start_that_failed_is_repeated_once_the_list_shows_that_there_is_no_export(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    fake.respond(500, on="start")
    assert verified(await export_all(make_client(fake), target, "a")) == {"a": 1000}
    assert clock.monotonic() - 1000 >= 60
    assert await starts(make_client(fake), "a") == {"a": 1}


async def test_a_start_that_fails_twice_is_the_error_of_its_account(
    make_fake: MakeFake, make_client: MakeClient, target: Place
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    fake.respond(500, on="start", times=2)
    found = await export_all(make_client(fake), target, "a")
    assert isinstance(found["a"].error, ServerError)
    assert verified(await export_all(make_client(fake), target, "a")) == {"a": 1000}


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_a_start_that_is_refused_is_not_repeated_and_leaves_no_note(
    make_fake: MakeFake,
    make_client: MakeClient,
    target: Place,
    left_behind: Any,
    clock: FakeClock,
    status: int,
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    fake.respond(status, on="start", times=None)
    found = await export_all(make_client(fake), target, "a")
    assert isinstance(found["a"].error, APIError)
    assert found["a"].error.status == status
    assert len([request for request in fake.api_requests if request.method == "POST"]) == 1
    assert clock.sleeps == []
    assert left_behind() == []


async def test_a_list_that_is_asked_for_obeys_retry_after_within_the_timeout(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", statuses=["ready"])])
    fake.respond(503, headers={"Retry-After": "120"}, on="list")
    assert verified(await export_all(make_client(fake), target, "a", timeout=600)) == {"a": 1000}
    assert clock.sleeps[0] == 120


@pytest.mark.parametrize(
    ("answer", "error"),
    [({"headers": {"Retry-After": "120"}}, ServerError), ({"delay": 1000.0}, ExportTimeoutError)],
    ids=["asks for more time than there is", "comes too late"],
)
async def test_a_list_that_does_not_come_ends_an_account_by_its_timeout(
    make_fake: MakeFake,
    make_client: MakeClient,
    target: Place,
    clock: FakeClock,
    answer: dict[str, Any],
    error: type[Exception],
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    fake.respond(503, on="list", times=None, **answer)
    began = clock.monotonic()
    found = await export_all(make_client(fake), target, "a", timeout=60)
    assert type(found["a"].error) is error
    assert clock.monotonic() - began <= 60
    assert not asked_to_start(fake)


async def test_a_run_that_died_while_it_started_an_export_leaves_a_note(
    make_fake: MakeFake, make_client: MakeClient, target: Place, left_behind: Any, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", statuses=["ready"])])
    fake.respond(202, on="start", processed=True, delay=math.inf)
    await killed_in_its_start(fake, make_client(fake), target)
    assert left_behind() in ([".sendgrid-exports-starting"], ["a.csv.json"])
    clock.advance(3600)
    assert verified(await export_all(make_client(fake), target, "a")) == {"a": 1000}
    assert await starts(make_client(fake), "a") == {"a": 1}
    assert left_behind() == []


async def killed_in_its_start(
    fake: FakeSendGrid, parent: ExportClient, target: Place, requests: int = 1
) -> None:
    """Run until the request of that number for a start is sent, and no further."""
    running = asyncio.create_task(export_all(parent, target, "a"))
    while sum(request.method == "POST" for request in fake.api_requests) < requests:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.05)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_a_run_left_that_died_in_its_start_delays_the_next_one_by_a_minute_at_most(
    make_fake: MakeFake, make_client: MakeClient, target: Place, left_behind: Any, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", statuses=["ready"])])
    fake.respond(202, on="start", delay=math.inf)
    await killed_in_its_start(fake, make_client(fake), target)
    clock.advance(20)
    began = clock.monotonic()
    assert verified(await export_all(make_client(fake), target, "a")) == {"a": 1000}
    assert 40 <= clock.monotonic() - began < 70
    assert await starts(make_client(fake), "a") == {"a": 1}
    assert left_behind() == []


async def test_the_minute_counts_from_the_last_request_and_not_from_the_first(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", statuses=["ready"])])
    fake.respond(429, headers={"Retry-After": "80"}, on="start")
    fake.respond(202, on="start", delay=math.inf)
    await killed_in_its_start(fake, make_client(fake), target, requests=2)
    began = clock.monotonic()
    assert verified(await export_all(make_client(fake), target, "a")) == {"a": 1000}
    assert clock.monotonic() - began >= 60


async def test_a_start_whose_answer_comes_after_the_timeout_is_found_by_the_next_run(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", statuses=["ready"])])
    fake.respond(202, on="start", processed=True, delay=1000)
    found = await export_all(make_client(fake), target, "a", timeout=20)
    assert isinstance(found["a"].error, ExportTimeoutError)
    clock.advance(3600)
    assert verified(await export_all(make_client(fake), target, "a")) == {"a": 1000}
    assert await starts(make_client(fake), "a") == {"a": 1}


async def test_a_run_before_midnight_that_died_in_its_start_is_known_after_it(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", statuses=["ready"])])
    clock.advance(14 * 3600)
    fake.respond(202, on="start", processed=True, delay=math.inf)
    await killed_in_its_start(fake, make_client(fake), target)
    clock.advance(3600)
    found = await export_all(make_client(fake), target, "a")
    assert verified(found) == {"a": 1000}
    assert found["a"].result is not None
    assert found["a"].result.target.name == "2026-03-03"
    assert await starts(make_client(fake), "a") == {"a": 1}


async def test_an_export_in_preparation_is_taken_and_one_that_is_ready_is_too_old(
    make_fake: MakeFake, make_client: MakeClient, target: Place
) -> None:
    fake = await make_fake(
        subusers=[FakeSubuser("a", ready_after=60), FakeSubuser("b", statuses=["ready"])]
    )
    parent = make_client(fake)
    ids = {name: await parent.for_subuser(name).start() for name in "ab"}
    found = await export_all(parent, target, "ab")
    exported = {name: each.result.export.id for name, each in found.items() if each.result}
    assert exported["a"] == ids["a"]
    assert exported["b"] != ids["b"]
    assert await starts(make_client(fake), "ab") == {"a": 1, "b": 2}
    for name in "ab":
        place = target.parent.parent / name / DATE
        [one] = await asyncio.to_thread(find_exports, place)
        assert one.request == ExportRequest(host="127.0.0.1", on_behalf_of=name)


async def test_an_unfinished_export_that_came_to_nothing_is_started_anew(
    make_fake: MakeFake, make_client: MakeClient, target: Place, tmp_path: Path, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", ready_after=60, statuses=["p", "failure"])])
    found = await export_all(make_client(fake), target, "a")
    assert isinstance(found["a"].error, ExportFailedError)
    subuser = (fake.subusers or ())[0]
    subuser.statuses = ("pending", "ready")
    found = await export_all(make_client(fake), target, "a")
    assert verified(found) == {"a": 1000}
    assert await starts(make_client(fake), "a") == {"a": 2}


async def test_an_account_with_two_exports_in_preparation_waits_for_them(
    make_fake: MakeFake, make_client: MakeClient, target: Place, clock: FakeClock
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", ready_after=100)])
    parent = make_client(fake)
    others = parent.for_subuser("a")
    for list_id in ("x", "y"):
        await others.start(list_ids=[list_id])
    began = clock.utc()
    found = await export_all(parent, target, "a")
    assert found["a"].result is not None
    created = found["a"].result.export.created_at
    assert created is not None
    assert (created - began).total_seconds() >= 100


async def test_an_account_whose_others_never_end_is_given_up(
    make_fake: MakeFake, make_client: MakeClient, target: Place
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", statuses=["pending"])])
    parent = make_client(fake)
    for list_id in ("x", "y"):
        await parent.for_subuser("a").start(list_ids=[list_id])
    found = await export_all(parent, target, "a", timeout=600)
    assert isinstance(found["a"].error, ExportTimeoutError)
    assert "2 other exports" in str(found["a"].error)
    assert await starts(make_client(fake), "a") == {"a": 2}


async def test_two_runs_at_once_start_nothing_twice(target: Place) -> None:
    names = [f"{n}" for n in range(12)]
    subusers = [FakeSubuser(name, contacts=20, ready_after=0.2) for name in names]
    # A clock that does not wait makes a minute pass while a start is on its way.
    async with FakeSendGrid(subusers=subusers) as fake, AsyncExitStack() as stack:
        polling = PollPolicy(initial=0.05, maximum=0.2)
        one, other = [
            await stack.enter_async_context(ExportClient(**fake.credentials, polling=polling))
            for _ in range(2)
        ]
        runs = await asyncio.gather(
            export_all(one, target, names, jobs=3), export_all(other, target, names, jobs=5)
        )
        assert await starts(one, names) == dict.fromkeys(names, 1)
    for name in names:
        errors = [run[name].error for run in runs if run[name].error is not None]
        assert len(errors) < 2
        assert all(isinstance(error, DownloadInProgressError) for error in errors)


async def test_a_directory_that_another_run_removes_at_its_end_is_made_again(
    make_fake: MakeFake, make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a", contacts=3)])
    mkdir = Path.mkdir
    removed: list[Path] = []

    def remove_once(path: Path, *args: Any, **options: Any) -> None:
        mkdir(path, *args, **options)
        if path.name == DATE and not removed:
            path.rmdir()
            removed.append(path)

    monkeypatch.setattr(Path, "mkdir", remove_once)
    found = await export_all(make_client(fake), tmp_path / "{account}/{date}", ["a"])
    assert len(removed) == 1
    assert verified(found) == {"a": 3}


async def test_a_generator_that_is_closed_early_leaves_no_task_and_no_lock(
    make_fake: MakeFake, make_client: MakeClient, target: Place, tmp_path: Path
) -> None:
    names = [f"{n}" for n in range(8)]
    fake = await make_fake(subusers=[FakeSubuser(name, ready_after=30) for name in names])
    parent = make_client(fake)
    clients = [parent.for_subuser(name) for name in names]
    before = asyncio.all_tasks()
    async with aclosing(export_accounts(target, clients, jobs=4)) as accounts:
        async for _ in accounts:
            break
    ours = {
        task
        for task in asyncio.all_tasks() - before
        if "sendgrid_exports/testing" not in str(task) and "aiohttp" not in str(task)
    }
    assert ours == set()
    assert not [*tmp_path.rglob("*.lock")]


async def test_an_error_of_the_clients_is_raised_once_those_under_way_are_done(
    make_fake: MakeFake, make_client: MakeClient, target: Place
) -> None:
    fake = await make_fake(subusers=[FakeSubuser(name) for name in "ab"])
    parent = make_client(fake)

    async def clients() -> AsyncIterator[ExportClient]:
        yield parent.for_subuser("a")
        yield parent.for_subuser("b")
        raise LookupError("no more")

    found: list[str] = []

    async def run() -> None:
        async for account in export_accounts(target, clients()):
            found.append(account.name)  # noqa: PERF401

    with pytest.raises(LookupError, match="no more"):
        await run()
    assert sorted(found) == ["a", "b"]


async def test_an_account_is_exported_once_and_a_second_client_of_that_name_is_an_error(
    make_fake: MakeFake, make_client: MakeClient, target: Place
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    client = make_client(fake).for_subuser("a")
    found = [account async for account in export_accounts(target, [client, client])]
    assert sorted(str(account.error) for account in found if account.error) == [
        "two clients have the account 'a': its name must be unique"
    ]
    assert await starts(make_client(fake), "a") == {"a": 1}


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"jobs": 0}, ValueError),
        ({"jobs": True}, TypeError),
        ({"jobs": "8"}, TypeError),
        ({"max_age": -1}, ValueError),
        ({"timeout": "soon"}, TypeError),
        ({"file_type": "xml"}, ValueError),
        ({"target": "backups"}, ValueError),
        ({"target": "s3://bucket/{date}"}, ValueError),
        ({"target": b"{account}"}, TypeError),
    ],
)
def test_a_bad_argument_is_refused_before_anything_runs(
    options: dict[str, Any], error: type[Exception]
) -> None:
    arguments: dict[str, Any] = {"target": "b/{account}", "clients": [], **options}
    with pytest.raises(error):
        export_accounts(**arguments)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("memory://{account}/{date}", "after the name of the bucket"),
        ("s3://key:s3cr3t@bucket/{account}", "without user, password"),
        ("memory://bucket/{account}", "decompress=True is for a directory"),
    ],
)
async def test_a_bucket_that_cannot_be_used_is_refused_before_anything_is_asked_for(
    make_fake: MakeFake, make_client: MakeClient, target: str, said: str
) -> None:
    fake = await make_fake(subusers=[FakeSubuser("a")])
    parent = make_client(fake, downloads=DownloadPolicy(decompress="decompress" in said))
    with pytest.raises(ValueError, match=said) as refused:
        [account async for account in export_accounts(target, [parent.for_subuser("a")])]
    assert "s3cr3t" not in str(refused.value)
    assert fake.requests == []


async def test_a_claim_that_takes_long_to_write_is_written_again(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = [20, 30, 1]
    replace = Bucket.replace

    def slow(self: Bucket, *what: Any) -> Any:
        clock.advance(took.pop(0))
        return replace(self, *what)

    monkeypatch.setattr(Bucket, "replace", slow)
    bucket = Bucket(MemoryStore())
    async with claim_object(bucket, "a.csv", Disk(1)) as claimed:
        await claimed.intend(ServerClock(clock))
    async with claim_object(bucket, "a.csv", Disk(1)) as claimed:
        assert claimed.intended == clock.utc() - timedelta(seconds=1)
    assert took == []


async def test_claims_are_conditional(tmp_path: Path) -> None:
    for place in (MemoryStore(), LocalStore(tmp_path)):
        await check_claims(Bucket(place, "some/where"))


@pytest.mark.parametrize(
    ("client", "error"), [(ExportClient("key"), ValueError), ("key", TypeError)]
)
async def test_a_client_without_an_account_is_refused(
    target: Place, client: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"clients? must"):
        [account async for account in export_accounts(target, [client])]


async def test_a_hundred_accounts_of_one_key_are_not_refused(
    make_fake: MakeFake, make_client: MakeClient, target: Place
) -> None:
    names = [f"{n}" for n in range(100)]
    fake = await make_fake(
        contacts=10,
        rate_limit=150,
        subuser_rate_limit=20,
        subusers=[FakeSubuser(name, contacts=10, ready_after=30) for name in names],
    )
    found = await export_all(make_client(fake), target, names, jobs=50)
    assert verified(found) == dict.fromkeys(names, 10)
    refused = sum(request.status == 429 for request in fake.api_requests)
    assert refused < 0.03 * len(fake.api_requests)


CHILD = """
import asyncio, json, resource, sys
from obstore.store import LocalStore
from sendgrid_exports import Bucket, ExportClient, PollPolicy, export_accounts

async def main() -> None:
    base_url, key, target, jobs, descriptors = sys.argv[1:]
    if target.startswith("file:///"):
        target = Bucket(LocalStore("/"), target.removeprefix("file:///"))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors), limit))
    polling = PollPolicy(initial=0.05, maximum=0.2)
    async with ExportClient(key, base_url=base_url, polling=polling) as client:
        clients = (client.for_subuser(s) async for s in client.subusers())
        async for account in export_accounts(target, clients, jobs=int(jobs)):
            error = account.error and type(account.error).__name__
            print(json.dumps([account.name, error]), flush=True)

asyncio.run(main())
"""


async def start_child(fake: FakeSendGrid, target: Place, jobs: int, descriptors: int) -> Any:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, fake.base_url, fake.api_key, str(target)),
        *(str(jobs), str(descriptors)),
        stdout=asyncio.subprocess.PIPE,
    )


async def test_more_jobs_than_descriptors_finish_all_the_same(target: Place) -> None:
    names = [f"{n}" for n in range(60)]
    async with FakeSendGrid(
        subusers=[FakeSubuser(name, contacts=10, statuses=["ready"]) for name in names]
    ) as fake:
        child = await start_child(fake, target, jobs=500, descriptors=100)
        out, _ = await child.communicate()
    assert child.returncode == 0
    found = dict(json.loads(line) for line in out.splitlines())
    assert found == dict.fromkeys(names)


async def test_a_process_killed_in_the_middle_is_followed_by_one_that_exports_nothing_twice(
    target: Place,
) -> None:
    names = [f"{n}" for n in range(16)]
    broken = {"failing": "ExportFailedError", "disabled": "PermissionDeniedError"}
    async with FakeSendGrid(
        subusers=[
            FakeSubuser("failing", statuses=["failure"]),
            FakeSubuser("disabled", disabled=True),
            *(FakeSubuser(name, contacts=10, ready_after=0.3) for name in names),
        ]
    ) as fake:
        child = await start_child(fake, target, jobs=4, descriptors=256)
        finished = {json.loads(await child.stdout.readline())[0] for _ in range(8)}
        child.kill()
        await child.communicate()
        child = await start_child(fake, target, jobs=4, descriptors=256)
        out, _ = await child.communicate()
        assert child.returncode == 0
        found = dict(json.loads(line) for line in out.splitlines())
        assert found == {**dict.fromkeys(names), **broken}
        assert finished & set(names)
        async with ExportClient(**fake.credentials) as parent:
            assert await starts(parent, names) == dict.fromkeys(names, 1)
