"""Exporting many accounts: each by a task of its own, a bounded number of them at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

import attrs

from sendgrid_exports.api.polling import may_have_started
from sendgrid_exports.api.wire import start_request
from sendgrid_exports.bucket import Bucket
from sendgrid_exports.client import ExportClient
from sendgrid_exports.delays import poll_delay
from sendgrid_exports.disk import Disk, free_descriptors
from sendgrid_exports.errors import (
    DownloadError,
    ExportExpiredError,
    ExportFailedError,
    ExportNotFoundError,
    ExportTimeoutError,
    SendGridExportsError,
)
from sendgrid_exports.events import OnEvent
from sendgrid_exports.http import Request
from sendgrid_exports.models import AccountResult, DownloadResult
from sendgrid_exports.nightly import (
    AskAgain,
    Resume,
    Start,
    account_name,
    check_pattern,
    choose,
    directories,
    find_finished,
    most_jobs,
    request_of,
)
from sendgrid_exports.settings import Duration, read_duration
from sendgrid_exports.timing import Deadline
from sendgrid_exports.transfer.claim import Claim, claim_directory, claim_object, find_manifests
from sendgrid_exports.transfer.manifest import Manifest
from sendgrid_exports.transfer.target import Target
from sendgrid_exports.transfer.together import together
from sendgrid_exports.transfer.transfer import Transfer

__all__ = ["export_accounts", "export_with_marks"]

Clients = Iterable[ExportClient] | AsyncIterable[ExportClient]

_MAX_AGE = timedelta(hours=12)


def export_accounts(
    target: Target,
    clients: Clients,
    *,
    jobs: int = 8,
    file_type: Literal["csv", "json"] = "csv",
    max_file_size: int | None = None,
    max_age: Duration = _MAX_AGE,
    timeout: Duration | None = None,
    on_event: OnEvent | None = None,
) -> AsyncGenerator[AccountResult, None]:
    """Export the contacts of many accounts, and yield what came of each as it ends.

        clients = (client.for_subuser(s) async for s in client.subusers() if not s.disabled)
        async for account in export_accounts("backups/{account}/{date}", clients):
            print(account.name, account.error or account.result.contact_count)

    An account that fails does not stop another one. An export is started only when its account
    has its turn, and its files are downloaded as soon as it is ready, so that none expires while
    it waits. At most `jobs` accounts are under way at once, fewer where the process may not open
    that many files. An account with two other exports in preparation waits for them.

    Called again, it exports nothing twice: an account that has a complete export, less than
    `max_age` old, in its directory of today or of the days before, is done without a request. One
    whose export is unfinished resumes it, and one whose export was started without a manifest
    finds it in SendGrid's list. An export of all contacts that is in preparation there is taken
    too, whoever started it.

    Of two calls at the same time one exports an account; the other one has a
    `DownloadInProgressError` for it, or finds the work done. In a directory a lock sees to that. In
    a bucket it is a claim, an object for each account below `.sendgrid-exports-claims/`, which says
    when its export was about to start. After a minute without an export in SendGrid's list it
    counts no longer, so what a killed process left delays the next call by a minute at most. Only
    a process that is suspended for that long between its claim and its request could start a
    second export.

    To end early, close the generator (`contextlib.aclosing`); what is under way is resumed by the
    next call.

    Args:
        target: a directory or a bucket, as for `ExportClient.fetch`, with the fields `{account}`
            and `{date}` (of today, in UTC, as 2026-03-02) in its path or prefix. Names of
            accounts are made safe and remain distinct.
        clients: a client for each account, from `for_subuser`, `for_key` with an account, or
            with `on_behalf_of`; taken one by one as accounts end. They should be derived from
            one client, as those share one session, disk threads and limits.
        jobs: the most accounts under way at once.
        file_type: as for `ExportClient.start`.
        max_file_size: as for `ExportClient.start`, in megabytes.
        max_age: how long ago an export may have been started to count.
        timeout: seconds for each account, from its turn on; None: see `ExportClient.fetch`.
        on_event: receives every event; each names its account.

    Raises:
        TypeError, ValueError: an argument can't be used, or a client has no account. Those under
            way are yielded first.
        Exception: what taking the next client raised, after those under way are yielded.
    """
    return export_with_marks(
        target,
        clients,
        jobs=jobs,
        file_type=file_type,
        max_file_size=max_file_size,
        max_age=max_age,
        timeout=timeout,
        on_event=on_event,
        marks={},
    )


def export_with_marks(
    target: Target,
    clients: Clients,
    *,
    jobs: int,
    file_type: str,
    max_file_size: int | None,
    max_age: Duration = _MAX_AGE,
    timeout: Duration | None,
    on_event: OnEvent | None,
    marks: Mapping[str, bool],
) -> AsyncGenerator[AccountResult, None]:
    """Do what `export_accounts` does, with the command's marks in the manifests."""
    if isinstance(jobs, bool) or not isinstance(jobs, int):
        raise TypeError(f"jobs must be a whole number, not {jobs!r}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, not {jobs}")
    path = target.url if isinstance(target, Bucket) else os.fspath(target)
    if not isinstance(path, str):
        raise TypeError(f"target must be a path of text, not {type(path).__name__}")
    check_pattern(path)
    night = _Night(
        target=target,
        request=start_request(file_type=file_type, max_file_size=max_file_size),
        file_type=file_type,
        max_age=timedelta(seconds=read_duration(max_age, "max_age")),
        timeout=None if timeout is None else read_duration(timeout, "timeout"),
        on_event=on_event,
        marks=marks,
    )
    return _results(night, _each(clients), jobs)


async def _each(clients: Clients) -> AsyncIterator[ExportClient]:
    if isinstance(clients, AsyncIterable):
        async for client in clients:
            yield client
    else:
        for client in clients:
            yield client


async def _next(clients: AsyncIterator[ExportClient]) -> tuple[ExportClient, str] | None:
    """Return the next client and its account, or None after the last."""
    client = await anext(clients, None)
    if client is None:
        return None
    if not isinstance(client, ExportClient):
        raise TypeError(f"clients must be of ExportClient, not {type(client).__name__}")
    if client.account is None:
        raise ValueError(
            "every client must have an account: make it with for_subuser, with for_key and "
            "account=, or with on_behalf_of="
        )
    return client, client.account


async def _results(
    night: _Night, clients: AsyncIterator[ExportClient], jobs: int
) -> AsyncGenerator[AccountResult, None]:
    """Yield what came of each account; another one begins as soon as fewer than `jobs` run."""
    running: set[asyncio.Task[AccountResult]] = set()
    taking: asyncio.Task[tuple[ExportClient, str] | None] | None = None
    ended = False
    async with together() as tasks:
        while True:
            if taking is None and not ended and len(running) < jobs:
                taking = tasks.create_task(_next(clients))
            waiting = {*running, *([taking] if taking else [])}
            if not waiting:
                return
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if taking is not None and taking.done():
                # An error is raised once the accounts under way are done.
                taken = None if taking.exception() else taking.result()
                ended, taking = taken is None, None
                if taken is not None:
                    client, name = taken
                    jobs = await night.begin(client, jobs)
                    running.add(tasks.create_task(night.run(client, name)))
            for task in [task for task in running if task.done()]:
                running.discard(task)
                yield task.result()


@attrs.define(kw_only=True)
class _Night:
    """What all accounts of one call have in common."""

    _target: Target
    _request: Request
    _file_type: str
    _max_age: timedelta
    _timeout: float | None
    _on_event: OnEvent | None
    _marks: Mapping[str, bool]
    _names: set[str] = attrs.field(factory=set, init=False)
    _began: datetime | None = attrs.field(default=None, init=False)
    _base: Path | Bucket = attrs.field(default=Path(), init=False)
    _pattern: str = attrs.field(default="", init=False)

    async def begin(self, client: ExportClient, jobs: int) -> int:
        """Read the target with the first client; return how many accounts may be under way at once.

        Raises:
            ImportError, TypeError, ValueError, DownloadError: the target can't be used.
        """
        if self._began is not None:
            return jobs
        means = client._means  # noqa: SLF001
        with means.disk:
            target = await client._read_target(self._target)  # noqa: SLF001
            free = await means.disk.run(free_descriptors)
        self._base, self._pattern = _split(target)
        self._began = means.clock.utc()
        return most_jobs(jobs, free=free, connections=means.policy.connections)

    async def run(self, client: ExportClient, name: str) -> AccountResult:
        """Export one account; whatever fails is its result."""
        try:
            if name in self._names:
                raise ValueError(f"two clients have the account {name!r}: its name must be unique")
            self._names.add(name)
            return AccountResult(name=name, result=await self._export(client, name))
        except Exception as error:  # noqa: BLE001
            return AccountResult(name=name, error=error)

    async def _export(self, client: ExportClient, name: str) -> DownloadResult:
        transfer = client._transfer("", self._timeout, self._on_event)  # noqa: SLF001
        disk, now = transfer.means.disk, transfer.means.clock.utc()
        # The date is that of the whole run, which may last beyond midnight.
        names = directories(self._pattern, name, now=self._began or now, since=now - self._max_age)
        # The client of this account may have a policy that needs a directory.
        places = {
            each: await client._read_target(self._base / each)  # noqa: SLF001
            for each in names
        }
        async with self._claim(name, places.values(), disk) as claimed:
            found = await disk.run(find_manifests, places)
            step: Resume | Start | None = find_finished(
                found, since=now - self._max_age, file_type=self._file_type
            )
            if step is None:
                step = await self._choose(transfer, found, claimed, names[0])
            if isinstance(step, Resume):
                # An export that was started earlier may have failed or expired.
                with contextlib.suppress(
                    ExportExpiredError, ExportFailedError, ExportNotFoundError
                ):
                    return await self._fetch(client, transfer, found, claimed, step)
            step = await self._start(client, transfer, claimed, names[0])
            return await self._fetch(client, transfer, found, claimed, step)

    def _claim(
        self, name: str, places: Iterable[Path | Bucket], disk: Disk
    ) -> AbstractAsyncContextManager[Claim]:
        if isinstance(self._base, Bucket):
            return claim_object(self._base, f"{account_name(name)}.{self._file_type}", disk)
        return claim_directory([place for place in places if isinstance(place, Path)], disk)

    async def _choose(
        self,
        transfer: Transfer,
        found: list[tuple[str, Manifest]],
        claimed: Claim,
        directory: str,
    ) -> Resume | Start:
        """Return what SendGrid's list leaves to do, once the account may start an export."""
        exports, clock = transfer.means.exports, transfer.means.clock
        bound = Deadline.after(exports.policy.timeout, clock.monotonic())
        deadline = bound if self._timeout is None else transfer.timeout
        polls = 0
        while True:
            listings = await exports.repeat(
                exports.list_exports, deadline=deadline, on_event=transfer.on_event
            )
            now = exports.server_clock.utc()
            step = choose(
                found,
                listings,
                directory=directory,
                since=now - self._max_age,
                now=now,
                intended=claimed.intended,
                file_type=self._file_type,
            )
            if not isinstance(step, AskAgain):
                return step
            delay = poll_delay(polls, exports.policy, transfer.means.random)
            polls += 1
            if delay >= deadline.left(clock.monotonic()):
                raise ExportTimeoutError(
                    f"The timeout passed before an export could be started: {step.reason}. "
                    "Try again later.",
                    export_id="",
                )
            await clock.sleep(delay)

    async def _start(
        self, client: ExportClient, transfer: Transfer, claimed: Claim, directory: str
    ) -> Resume:
        """Start an export; where the answer was lost, again only if the list does not have it."""
        exports = transfer.means.exports
        await client._prepare(self._base / directory)  # noqa: SLF001
        for is_last in (False, True):
            try:
                export_id = await exports.start(
                    self._request,
                    deadline=transfer.timeout,
                    on_event=transfer.on_event,
                    before=partial(claimed.intend, exports.server_clock),
                )
                return Resume(export_id, directory)
            except DownloadError:
                # The claim could not be written.
                raise
            except SendGridExportsError as error:
                if not may_have_started(error):
                    await claimed.fulfil()
                    raise
                if is_last:
                    raise
            step = await self._choose(transfer, [], claimed, directory)
            if isinstance(step, Resume):
                return step
        raise AssertionError

    async def _fetch(
        self,
        client: ExportClient,
        transfer: Transfer,
        found: list[tuple[str, Manifest]],
        claimed: Claim,
        step: Resume,
    ) -> DownloadResult:
        transfer.export_id = step.export_id
        place = self._base / step.directory
        known = {(directory, manifest.export_id): manifest for directory, manifest in found}
        manifest = known.get((step.directory, step.export_id))
        request = request_of(manifest, client._record(self._request, **self._marks))  # noqa: SLF001
        if manifest is None or request != manifest.request:
            async with client._open(step.export_id, place) as opened:  # noqa: SLF001
                await opened.save(lambda manifest: attrs.evolve(manifest, request=request))
        if claimed.intended is not None:
            await claimed.fulfil()
        return await client._fetch(transfer, place)  # noqa: SLF001


def _split(target: Path | Bucket) -> tuple[Path | Bucket, str]:
    """Return a target up to its first part with a field, and the rest, which is a pattern.

    Raises:
        ValueError: a bucket's name has a field.
    """
    base, parts = target, list[str]()
    while "{" in str(base):
        if base == base.parent:
            raise ValueError(f"target must have its fields after the name of the bucket: {target}")
        base, parts = base.parent, [base.name, *parts]
    return base, "/".join(parts)
