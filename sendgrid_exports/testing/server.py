"""FakeSendGrid: SendGrid's contact exports on this machine, to program and to test against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypedDict

import attrs

from sendgrid_exports.testing.accounts import REGIONS, Account
from sendgrid_exports.testing.api import Call, FakeAPI, ScriptedAnswer, body_of
from sendgrid_exports.testing.contacts import csv_row, make_contacts
from sendgrid_exports.testing.faults import Fault
from sendgrid_exports.testing.http import LoopbackServer, LoopWatch
from sendgrid_exports.testing.storage import FakeStorage, FaultRule
from sendgrid_exports.testing.world import (
    RecordedRequest,
    Recording,
    Settings,
    World,
)

if TYPE_CHECKING:
    from sendgrid_exports.testing.thread import ThreadedFakeSendGrid

__all__ = ["Credentials", "FakeSendGrid"]

_P = ParamSpec("_P")


class Credentials(TypedDict):
    """What an `ExportClient` needs to reach the service."""

    api_key: str
    base_url: str


@attrs.define(kw_only=True, eq=False, repr=False, slots=False)
class FakeSendGrid(Settings):
    """The export service on loopback ports: the API, and the storage its links lead to.

    It keeps SendGrid's and S3's rules, answers in their words, and breaks in every way asked for
    by `respond` and `inject`. Files are in a temporary directory, never in memory. Methods that
    take an export's id raise `KeyError` for an unknown one::

        import asyncio

        import aiohttp

        from sendgrid_exports.testing import FakeSendGrid


        async def main() -> None:
            async with FakeSendGrid() as sendgrid, aiohttp.ClientSession() as session:
                export_id = await sendgrid.add_export(contacts=10)
                url = f"{sendgrid.base_url}/v3/marketing/contacts/exports/{export_id}"
                headers = {"Authorization": f"Bearer {sendgrid.api_key}"}
                async with session.get(url, headers=headers) as response:
                    print(await response.json())


        asyncio.run(main())

    Args:
        contacts: how many contacts a started export has.
        files: over how many files they are spread; `max_file_size` of the request splits further.
        statuses: what polls of a started export see, one each; the last one stays.
        ready_after: seconds after its start at which an export has the last of `statuses`, and
            until then the first; None lets polls decide, however fast they come.
        link_lifetime: seconds a link lives, from the whole second in which it was signed;
            S3 knows whole seconds only, so it is rounded up.
        file_lifetime: seconds from an export's start to its files' removal.
        compressed: whether files are gzip.
        content_encoding: the Content-Encoding of gzip files; None leaves it out.
        etag: `md5` and `weak` are the MD5 of the bytes, `multipart` and `kms` look like S3's for
            such objects and are not, `none` leaves it out.
        repeat_header: whether every CSV file begins with the header, or only the first.
        after_expiry: what a poll sees then: 404, `ready` without links, or links to nothing.
        message: the message of exports whose status is `failure`.
        checksum_headers: whether a whole object comes with its SHA-256, or its CRC-32, as S3 does.
        list_page_size: exports on one page of the list; None puts all on one.
        api_key: the key of the account.
        scopes: what the key may do, for `GET /v3/scopes`; exports need "marketing.read", the list
            of subusers "subusers.read".
        subusers: those for whom the key may act with `on-behalf-of`; an unknown one is refused
            with 403. None, the default, ignores the header. See `FakeSubuser`.
        rate_limit: requests a minute for each key, beyond which the answer is 429; None is
            unlimited, without `X-RateLimit` headers.
        subuser_rate_limit: requests a minute for each subuser, with any key.
        clock: the time of all servers; the system's by default.
        seed: another seed makes other contacts and ids.
    """

    def __attrs_post_init__(self) -> None:
        """Make the servers; they listen once the block is entered."""
        self._recording = Recording()
        self._scripts: list[ScriptedAnswer] = []
        self._rules: list[FaultRule] = []
        self._world = world = World(self)
        self._api, self._eu_api = (
            FakeAPI(world, self._recording, self._scripts, region) for region in REGIONS
        )
        storage = FakeStorage(world, self._recording, self._rules)
        answers = (self._api.answer, self._eu_api.answer, storage.answer)
        self._servers = tuple(map(LoopbackServer, answers))

    @classmethod
    def in_thread(
        cls: Callable[_P, FakeSendGrid], *args: _P.args, **kwargs: _P.kwargs
    ) -> AbstractContextManager[ThreadedFakeSendGrid]:
        """Run the service in a thread of its own: `with FakeSendGrid.in_thread() as fake`.

        The arguments are those of `FakeSendGrid`. The block gets an object with the same methods,
        all of them synchronous, for tests of synchronous code: a command, or a script in a
        subprocess. They block: in an event loop, use `async with FakeSendGrid()`.
        """
        from sendgrid_exports.testing.thread import run_in_thread

        return run_in_thread(cls(*args, **kwargs))

    async def __aenter__(self) -> Self:
        """Start the servers."""
        await self._world.spool.open()
        for server in self._servers:
            await server.open()
        self._api.url, self._eu_api.url, self._world.storage_url = (s.url for s in self._servers)
        self._watch = LoopWatch(self._servers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Abort every connection, stop the servers and remove the files."""
        self._watch.end()
        try:
            for server in self._servers:
                await server.close()
        finally:
            await self._world.spool.close()

    @property
    def base_url(self) -> str:
        """Where the API listens, such as `http://127.0.0.1:40001`."""
        return self._api.url

    @property
    def eu_base_url(self) -> str:
        """Where the API of the region "eu" listens, as api.eu.sendgrid.com does."""
        return self._eu_api.url

    @property
    def storage_url(self) -> str:
        """Where the storage host listens."""
        return self._world.storage_url

    @property
    def credentials(self) -> Credentials:
        """The `api_key` and `base_url` of an `ExportClient` for this service, to be unpacked."""
        return {"api_key": self.api_key, "base_url": self.base_url}

    @property
    def directory(self) -> Path:
        """The temporary directory of the files, removed at the end."""
        return self._world.spool.directory

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request so far, oldest first, as it stands now."""
        return list(self._recording.requests)

    @property
    def api_requests(self) -> list[RecordedRequest]:
        """The requests to the API."""
        return [request for request in self.requests if request.server == "api"]

    @property
    def storage_requests(self) -> list[RecordedRequest]:
        """The requests to the storage host."""
        return [request for request in self.requests if request.server == "storage"]

    async def add_export(
        self,
        *,
        contacts: int | None = None,
        files: int | None = None,
        file_type: str = "csv",
        export_id: str | None = None,
        statuses: Sequence[str] = ("ready",),
        bodies: Sequence[bytes] | None = None,
        names: Sequence[str] | None = None,
        contact_count: int | Literal["actual"] | None = "actual",
        start: int = 0,
        subuser: str | None = None,
    ) -> str:
        """Add an export that was started already, and return its id.

        Args:
            contacts: how many contacts it has; by default as the constructor says, like `files`.
            files: over how many files they are spread.
            file_type: `csv` or `json`.
            export_id: any text; by default a UUID.
            statuses: what polls of it see, one each; the last one stays.
            bodies: the files byte for byte, instead of generated ones.
            names: the files' object keys, as long and as odd as you like, one for each file.
            contact_count: the number in the status once it is ready; None leaves it out. By default
                the actual one, left out with `bodies`.
            start: the number of its first contact, see `make_contacts`.
            subuser: whose export it is; by default the parent account's.

        Raises:
            KeyError: the subuser is unknown.
            ValueError: the id or a name is taken, or names and files differ in number.
        """
        owner: Account = self if subuser is None else self._world.subusers[subuser]
        account = Account(
            contacts=owner.contacts if contacts is None else contacts,
            files=owner.files if files is None else files,
            statuses=statuses,
            message=owner.message,
        )
        if contact_count == "actual":
            contact_count = account.contacts if bodies is None else None
        export = await self._world.add(
            account=account,
            owner=subuser or "",
            file_type=file_type,
            export_id=export_id,
            bodies=bodies,
            names=names,
            contact_count=contact_count,
            start=start,
        )
        return export.id

    async def file_bytes(self, export_id: str) -> tuple[bytes, ...]:
        """Return the raw bytes of each file, as a client should receive them."""
        spool = self._world.spool
        files = [file.spooled for file in self._world.export(export_id).files]
        return tuple([await spool.read(file, 0, file.size) for file in files])

    def contacts_of(self, export_id: str) -> Iterator[dict[str, Any]]:
        """Yield the contacts of a generated export, as the lines of a JSON export have them."""
        export = self._world.export(export_id)
        return make_contacts(export.contacts, seed=self.seed, start=export.start)

    def rows_of(self, export_id: str) -> Iterator[dict[str, str]]:
        """Yield the contacts of a generated export, as the rows of a CSV export have them."""
        return map(csv_row, self.contacts_of(export_id))

    async def replace_file(self, export_id: str, file: int, body: bytes) -> None:
        """Put another object under the key of file `file` (from 1), with another ETag."""
        await self._world.replace(self._world.export(export_id), file, body)

    def remove_files(self, export_id: str) -> None:
        """Delete the files of an export: the storage answers 404 `NoSuchKey`."""
        self._world.export(export_id).removed = True

    def links(self, export_id: str) -> tuple[str, ...]:
        """Return links to the files of an export, signed just now."""
        links = self._world.links(self._world.export(export_id))
        return tuple(self.storage_url + link for link in links)

    def etags(self, export_id: str) -> tuple[str | None, ...]:
        """Return the ETag of each file, or None."""
        return tuple(file.etag for file in self._world.export(export_id).files)

    def file_path(self, export_id: str, number: int) -> Path:
        """Return the path of file `number` (from 1) that the storage serves.

        Exports with the same generated contacts may share a file: only read it.
        """
        return self._world.export(export_id).files[number - 1].spooled.path

    def expire_links(self) -> None:
        """Let every link signed so far be an expired one, from now on."""
        self._world.signer.revoke()

    def respond(
        self,
        status: int | None,
        *,
        body: str | bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        times: int | None = 1,
        skip: int = 0,
        on: Call | None = None,
        processed: bool = False,
        delay: float = 0.0,
    ) -> None:
        """Queue an answer that the API gives instead of its own.

        Args:
            status: the status to answer; None closes the connection without an answer.
            body: a mapping as JSON, anything else as it is; by default what SendGrid documents
                for an error of that status, and nothing for a success.
            headers: more headers, such as `X-RateLimit-Reset`.
            times: how many requests are answered so; None is for ever.
            skip: how many requests for that call are answered as usual before.
            on: the call it is for; None for any.
            processed: do what was asked first, so that only the answer is lost.
            delay: seconds on the clock before the answer; `math.inf` never answers.
        """
        raw, content_type = body_of(status, body)
        script = ScriptedAnswer(
            status=status,
            body=raw,
            content_type=content_type,
            headers=dict(headers or {}),
            times=times,
            skip=skip,
            on=on,
            processed=processed,
            delay=delay,
        )
        self._scripts.append(script)

    def inject(
        self,
        fault: Fault,
        *,
        file: int | None = None,
        export_id: str | None = None,
        times: int | None = 1,
        skip: int = 0,
    ) -> None:
        """Let requests for files, by living links, meet `fault`; each meets one fault at most.

        Args:
            fault: what happens to them.
            file: the number of the file (from 1) it is for; None for any.
            export_id: the export it is for; None for any.
            times: how many requests meet it; None is for ever.
            skip: how many matching requests go by unharmed before.
        """
        rule = FaultRule(fault=fault, file=file, export_id=export_id, times=times, skip=skip)
        self._rules.append(rule)

    def clear_faults(self) -> None:
        """Forget what `respond` and `inject` asked for; answers under way are not affected."""
        self._scripts.clear()
        self._rules.clear()
