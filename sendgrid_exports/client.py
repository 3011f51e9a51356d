"""The client: it conducts, and decides nothing itself."""

from __future__ import annotations

import inspect
import json
import math
import random as standard_random
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import attrs

from sendgrid_exports.api.arguments import check_api_key, check_base_url, check_text
from sendgrid_exports.api.exports import Exports
from sendgrid_exports.api.turns import Turns
from sendgrid_exports.api.wire import start_request
from sendgrid_exports.bucket import Bucket
from sendgrid_exports.decoding import decode
from sendgrid_exports.delays import Random
from sendgrid_exports.disk import Disk
from sendgrid_exports.errors import ExportNotReadyError
from sendgrid_exports.events import Event, OnEvent, log
from sendgrid_exports.http import Request
from sendgrid_exports.models import (
    ContactExport,
    DownloadResult,
    ExportListing,
    ExportRequest,
    ExportStatus,
    Subuser,
)
from sendgrid_exports.session import Session
from sendgrid_exports.settings import (
    BATCH_SIZE,
    DownloadPolicy,
    Duration,
    PollPolicy,
    read_duration,
)
from sendgrid_exports.timing import Clock, Deadline, SystemClock
from sendgrid_exports.transfer.connections import Connections
from sendgrid_exports.transfer.download import download, find_result
from sendgrid_exports.transfer.folder import Folder, open_folder, prepare_directory
from sendgrid_exports.transfer.names import PROBE
from sendgrid_exports.transfer.objects import Objects, open_objects
from sendgrid_exports.transfer.target import Target, is_url, read_target
from sendgrid_exports.transfer.transfer import Means, Transfer
from sendgrid_exports.transfer.upload import upload
from sendgrid_exports.version import __version__

if TYPE_CHECKING:
    import aiohttp

    from sendgrid_exports.formats.rows import Errors, Row

__all__ = ["ExportClient", "export_contacts", "fetch_export"]

P = TypeVar("P", PollPolicy, DownloadPolicy)

_BASE_URL = "https://api.sendgrid.com"
_EU_BASE_URL = "https://api.eu.sendgrid.com"
_REGIONS = ("global", "eu")
_THREADS = 8


class ExportClient:
    """Starts exports, waits for them, and downloads their files.

    One client serves any number of tasks of one event loop. Constructing it needs no running
    loop, sends nothing and reads no environment variable.

    Args:
        api_key: SendGrid's API key; it is sent to the host of `base_url` alone.
        session: an aiohttp session to borrow; it is never closed. By default the client opens one
            of its own, which obeys `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` as curl and pip
            do; this machine is never reached through a proxy. A session with `trust_env=True`
            lends its connector, headers, cookies and traces, and the same proxies are obeyed:
            a netrc file never adds credentials to a request.
        base_url: the root of the API; `https://api.eu.sendgrid.com` for subusers in the EU.
        eu_base_url: where `for_subuser` and `for_key` reach accounts in the EU; needed where
            `base_url` is not one of SendGrid's own.
        on_behalf_of: the subuser a parent account acts for, or "account-id" and the id of a
            partner's customer account.
        allow_insecure_http: allow `http://` for a `base_url` on another machine, and for the
            links it gives. Everyone on the way can then read the API key. On this machine
            (localhost, 127.0.0.1, ::1) http is always allowed.
        polling: how to poll.
        downloads: how to download.
        clock: the source of time.
        random: returns numbers from 0 to below 1, for the jitter of delays.

    Raises:
        TypeError, ValueError: an argument can't be used; the message names it.
    """

    def __init__(
        self,
        api_key: str,
        *,
        session: aiohttp.ClientSession | None = None,
        base_url: str = _BASE_URL,
        eu_base_url: str | None = None,
        on_behalf_of: str | None = None,
        allow_insecure_http: bool = False,
        polling: PollPolicy | None = None,
        downloads: DownloadPolicy | None = None,
        clock: Clock | None = None,
        random: Random = standard_random.random,
    ) -> None:
        check_api_key(api_key)
        if not isinstance(allow_insecure_http, bool):
            raise TypeError(
                f"allow_insecure_http must be True or False, not {allow_insecure_http!r}"
            )
        base_url = check_base_url(base_url, allow_insecure_http=allow_insecure_http)
        if eu_base_url is not None:
            eu_base_url = check_base_url(eu_base_url, allow_insecure_http=allow_insecure_http)
        if on_behalf_of is not None:
            check_text(on_behalf_of, "on_behalf_of")
        self._polling = _policy(polling, PollPolicy, "polling")
        self._downloads = _policy(downloads, DownloadPolicy, "downloads")
        self._clock = clock if clock is not None else SystemClock()
        self._random = random
        self._api_key = api_key
        self._base_url = base_url
        self._hosts = _hosts(base_url, eu_base_url)
        self._account = on_behalf_of
        self._is_derived = False
        self._on_behalf_of = on_behalf_of
        self._session = Session(session, self._clock)
        self._disk = Disk(_THREADS)
        self._turns: WeakValueDictionary[str, Turns] = WeakValueDictionary()
        self._exports = self._make_exports(api_key, on_behalf_of)
        limits = self._downloads.limits
        connections = self._session.most_connections(self._downloads.connections)
        self._means = Means(
            exports=self._exports,
            session=self._session,
            connections=Connections(connections, limits.first_connections),
            disk=self._disk,
            clock=self._clock,
            random=random,
            policy=self._downloads,
            allow_http=base_url.lower().startswith("http://"),
        )

    def __repr__(self) -> str:
        return f"ExportClient(base_url={self._base_url!r})"

    async def __aenter__(self) -> ExportClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; a borrowed session stays open. Closing twice is allowed.

        A client from `for_subuser` or `for_key` has none of its own: this does nothing to it.
        """
        if not self._is_derived:
            await self._session.close()

    @property
    def account(self) -> str | None:
        """The account that this client acts for, as its events name it; None if it has no name."""
        return self._account

    def subusers(self) -> AsyncGenerator[Subuser, None]:
        """Yield the subusers of the account, in SendGrid's order, each once.

            async for subuser in client.subusers():
                ...

        https://www.twilio.com/docs/sendgrid/api-reference/subusers-api/list-all-subusers

        The API key needs the scope subusers.read. A page is asked for once the one before is
        used up, and again as a poll is where that failed in a transient way. Disabled ones are
        among them: `Subuser.disabled` says so.

        Raises:
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        return self._exports.subusers(on_event=_listener(None, self._account))

    def for_subuser(self, subuser: Subuser | str, *, region: str | None = None) -> ExportClient:
        """Return a client that acts for a subuser, with the same API key.

        https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/on-behalf-of

        It shares this client's session, connections, threads and policies, and the pace of its
        requests. It is closed with this client.

        Args:
            subuser: a subuser, or its username. For a customer account of a partner it is
                "account-id" and its id, as in `"account-id 12345"`.
            region: "global" or "eu", which decides the host; None: the subuser's own, or for a
                name that of this client.

        Raises:
            TypeError, ValueError: an argument can't be used.
        """
        name = subuser.username if isinstance(subuser, Subuser) else subuser
        check_text(name, "subuser")
        if isinstance(subuser, Subuser) and region is None:
            region = subuser.region
        return self._derive(self._api_key, name, on_behalf_of=name, region=region)

    def for_key(
        self, api_key: str, *, account: str | None = None, region: str | None = None
    ) -> ExportClient:
        """Return a client with another API key, such as one of a subuser's own.

        It shares what a client from `for_subuser` shares, except that each key has its own pace.

        Args:
            api_key: the API key.
            account: what events and `export_accounts` call the account.
            region: "global" or "eu", which decides the host; None: that of this client.

        Raises:
            TypeError, ValueError: an argument can't be used.
        """
        check_api_key(api_key)
        if account is not None:
            check_text(account, "account")
        return self._derive(api_key, account, on_behalf_of=None, region=region)

    def _derive(
        self, api_key: str, account: str | None, *, on_behalf_of: str | None, region: str | None
    ) -> ExportClient:
        if region is not None and region not in _REGIONS:
            raise ValueError(f"region must be 'global' or 'eu', not {region!r}")
        if region is not None and region not in self._hosts:
            raise ValueError(
                f"The host of the region {region!r} is not known, as base_url is not SendGrid's "
                "own: pass eu_base_url to ExportClient."
            )
        client = copy(self)
        client._act_for(api_key, account, on_behalf_of, region)  # noqa: SLF001
        return client

    def _act_for(
        self, api_key: str, account: str | None, on_behalf_of: str | None, region: str | None
    ) -> None:
        self._is_derived = True
        self._api_key = api_key
        self._account = account
        self._on_behalf_of = on_behalf_of
        self._base_url = self._base_url if region is None else self._hosts[region]
        self._exports = self._make_exports(api_key, on_behalf_of)
        self._means = attrs.evolve(self._means, exports=self._exports)

    def _make_exports(self, api_key: str, on_behalf_of: str | None) -> Exports:
        return Exports(
            api_key=api_key,
            base_url=self._base_url,
            on_behalf_of=on_behalf_of,
            session=self._session,
            turns=self._turns.setdefault(api_key, Turns(self._clock)),
            clock=self._clock,
            random=self._random,
            polling=self._polling,
            user_agent=f"sendgrid-exports/{__version__}",
        )

    async def start(
        self,
        *,
        list_ids: Sequence[str] = (),
        segment_ids: Sequence[str] = (),
        file_type: Literal["csv", "json"] = "csv",
        max_file_size: int | None = None,
        notify_email: bool = False,
    ) -> str:
        """Start an export and return its id, which is all that must be kept.

        https://www.twilio.com/docs/sendgrid/api-reference/contacts/export-contacts

        It is not idempotent, so it is tried again (three times at most) only where it certainly
        was not processed: no connection, or 429. After any other error `list_exports` tells
        whether an export is running.

        Args:
            list_ids: the lists to export; with no list and no segment, every contact.
            segment_ids: the segments to export.
            file_type: `csv`, or `json` for one object a line.
            max_file_size: megabytes above which the export is split; SendGrid's default is 5000.
            notify_email: let SendGrid write an e-mail when it is ready.

        Raises:
            TypeError, ValueError: an argument can't be used.
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        request = start_request(
            list_ids=list_ids,
            segment_ids=segment_ids,
            file_type=file_type,
            max_file_size=max_file_size,
            notify_email=notify_email,
        )
        return await self._exports.start(
            request, deadline=Deadline(), on_event=_listener(None, self._account)
        )

    async def get(self, export_id: str) -> ContactExport:
        """Return an export as it is now: one request, without waiting or a retry.

        https://www.twilio.com/docs/sendgrid/api-reference/contacts/export-contacts-status

        Raises:
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        return await self._exports.get(check_text(export_id, "export_id"))

    async def list_exports(self) -> tuple[ExportListing, ...]:
        """Return the exports SendGrid lists, over all pages: in flight or recent, newest last.

        https://www.twilio.com/docs/sendgrid/api-reference/contacts/get-all-existing-exports

        Raises:
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        return await self._exports.list_exports()

    async def scopes(self) -> tuple[str, ...]:
        """Return the permissions of the API key; exports need marketing.read.

        https://www.twilio.com/docs/sendgrid/api-reference/api-key-permissions/retrieve-a-list-of-scopes-for-which-this-user-has-access

        Raises:
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        return await self._exports.scopes()

    async def wait(
        self,
        export_id: str,
        *,
        timeout: Duration | None = None,
        on_event: OnEvent | None = None,
    ) -> ContactExport:
        """Poll the status until the export is ready, and return it.

        Args:
            export_id: the export.
            timeout: seconds to wait at most; None: as `PollPolicy.timeout` says.
            on_event: receives an event for every poll.

        Raises:
            ExportFailedError: SendGrid could not make it.
            ExportTimeoutError: the timeout passed; the export continues at SendGrid.
            APIError, TransportError, InvalidResponseError: what can't get better at once, or
                the last of too many failures in a row.
        """
        check_text(export_id, "export_id")
        return await self._exports.wait(
            export_id,
            deadline=self._wait_deadline(timeout),
            on_event=_listener(on_event, self._account),
        )

    async def download(
        self,
        export: ContactExport,
        target: Target,
        *,
        timeout: Duration | None = None,
        on_event: OnEvent | None = None,
    ) -> DownloadResult:
        """Download every file of a ready export to `target`, complete and verified.

        Args:
            export: a ready export, from `wait` or `get`.
            target: where the files go: a directory, made if need be; a url such as
                `s3://bucket/prefix`, `gs://`, `az://`, `memory://` or `file://`; or a `Bucket`.
            timeout: seconds to take at most; None: only the files' own expiry bounds it.
            on_event: receives every event.

        Raises:
            ExportNotReadyError: it is still being prepared, or failed.
            ExportTimeoutError: the timeout passed; another call resumes.
            ExportExpiredError: the files are deleted.
            DownloadError: a file can't be downloaded, or fails its checks; the subclass says which.
            APIError, TransportError, InvalidResponseError: links could not be renewed.
            OSError: the disk failed.
        """
        _check_export(export)
        transfer = self._transfer(export.id, timeout, on_event)
        async with self._open(export.id, target) as place:
            if result := await find_result(transfer, place):
                return result
            _check_ready(export)
            return await self._download(export, transfer, place)

    async def fetch(
        self,
        export_id: str,
        target: Target,
        *,
        timeout: Duration | None = None,
        on_event: OnEvent | None = None,
    ) -> DownloadResult:
        """Wait for an export and download it; what is there already is not downloaded again.

        Args:
            export_id: the export; all that another process needs to resume the work of this one.
            target: where the files go: a directory, made if need be; a url such as
                `s3://bucket/prefix`, `gs://`, `az://`, `memory://` or `file://`; or a `Bucket`.
            timeout: seconds for both together; None: `PollPolicy.timeout` bounds the waiting,
                and the files' own expiry the download.
            on_event: receives every event.

        Raises:
            What `wait` and `download` raise.
        """
        check_text(export_id, "export_id")
        return await self._fetch(self._transfer(export_id, timeout, on_event), target)

    @asynccontextmanager
    async def stream_contacts(
        self,
        export: ContactExport,
        *,
        batch_size: int = BATCH_SIZE,
        timeout: Duration | None = None,
        errors: Errors = "strict",
        on_event: OnEvent | None = None,
    ) -> AsyncIterator[AsyncIterator[list[Row]]]:
        """Open a ready export for reading straight from its links, without a disk.

            async with client.stream_contacts(export) as batches:
                async for batch in batches:
                    ...

        File after file comes over one connection, as fast as the batches are taken. After a break
        it resumes within the same object, with a fresh link where the old one is dead. At its end
        each file is verified (length, MD5 where the ETag is one, gzip): only a loop that ended
        without an error had every contact, since batches that were yielded can't be taken back.

        Args:
            export: a ready export, from `wait` or `get`.
            batch_size: rows in a batch, as `read_contacts` gives them; each has the columns of
                its own file. The last batch may have fewer.
            timeout: seconds from the opening to the last batch; None: only the files' own expiry
                bounds it.
            errors: what to do with bytes that are not UTF-8: `strict` raises, `replace` puts
                U+FFFD.
            on_event: receives every event; paths are the names that the files would
                have on disk.

        Raises:
            ExportNotReadyError: it is still being prepared, or failed.
            ExportTimeoutError: the timeout passed.
            ExportExpiredError: the files are deleted.
            CorruptDownloadError: a file fails its checks, was replaced in the middle, or holds
                no contacts.
            DownloadError: a file can't be downloaded to its end; the subclass says why.
            APIError, TransportError, InvalidResponseError: links could not be renewed.
        """
        # Imported here: downloads to disk do not need it.
        from sendgrid_exports.contents.contacts import check_batch_size, check_errors
        from sendgrid_exports.contents.stream import ContactStream
        from sendgrid_exports.transfer.stream import FileStream

        _check_export(export)
        check_batch_size(batch_size)
        check_errors(errors)
        transfer = self._transfer(export.id, timeout, on_event)
        _check_ready(export)
        export = await transfer.begin(export)
        with self._disk as disk:
            # To read thousands of links takes a while.
            files = await disk.run(FileStream, transfer, export)
            stream = ContactStream(files, batch_size=batch_size, errors=errors)
            async with aclosing(stream.batches()) as batches:
                yield batches

    async def _export(
        self,
        request: Request,
        target: Target,
        *,
        timeout: Duration | None,
        on_event: OnEvent | None,
        demo: bool = False,
        allow_shrink: bool = False,
    ) -> DownloadResult:
        transfer = self._transfer("", timeout, on_event)
        place = await self._prepare(target)
        record = self._record(request, demo=demo, allow_shrink=allow_shrink)
        transfer.export_id = await self._exports.start(
            request, deadline=transfer.timeout, on_event=transfer.on_event
        )
        async with self._open(transfer.export_id, place) as opened:
            await opened.save(lambda manifest: attrs.evolve(manifest, request=record))
            return await self._wait_and_download(transfer, opened)

    async def _prepare(self, target: Target) -> Path | Bucket:
        """Return where the files of an export that is about to start have a place to go to."""
        with self._disk as disk:
            place = await self._read_target(target)
            if isinstance(place, Bucket):
                await disk.run(place.check_writable, f"{PROBE}write")
            else:
                await disk.run(prepare_directory, place)
        return place

    def _record(self, request: Request, **marks: bool) -> ExportRequest:
        """Return what a manifest keeps of the request for a start."""
        asked = {
            **json.loads(request.body or b"{}"),
            "host": urlsplit(self._base_url).hostname,
            "on_behalf_of": self._on_behalf_of,
            **marks,
        }
        return decode(ExportRequest, asked, "The request")

    async def _fetch(self, transfer: Transfer, target: Target) -> DownloadResult:
        async with self._open(transfer.export_id, target) as place:
            if result := await find_result(transfer, place):
                return result
            return await self._wait_and_download(transfer, place)

    async def _wait_and_download(
        self, transfer: Transfer, place: Folder | Objects
    ) -> DownloadResult:
        bounded = math.isfinite(transfer.timeout.at)
        export = await self._exports.wait(
            transfer.export_id,
            deadline=transfer.timeout if bounded else self._wait_deadline(None),
            on_event=transfer.on_event,
            known_ready=place.manifest.state != "pending",
        )
        return await self._download(export, transfer, place)

    async def _download(
        self, export: ContactExport, transfer: Transfer, place: Folder | Objects
    ) -> DownloadResult:
        if isinstance(place, Objects):
            return await upload(export, transfer, place)
        return await download(export, transfer, place)

    def _transfer(
        self, export_id: str, timeout: Duration | None, on_event: OnEvent | None
    ) -> Transfer:
        return Transfer(
            means=self._means,
            export_id=export_id,
            timeout=self._deadline(timeout),
            on_event=_listener(on_event, self._account),
        )

    @asynccontextmanager
    async def _open(self, export_id: str, target: Target) -> AsyncIterator[Folder | Objects]:
        with self._disk as disk:
            place = await self._read_target(target)
            if isinstance(place, Bucket):
                async with open_objects(place, export_id, disk) as objects:
                    yield objects
            else:
                async with open_folder(place, export_id, disk, self._clock) as folder:
                    yield folder

    async def _read_target(self, target: Target) -> Path | Bucket:
        # To load obstore and to make a store takes a while.
        place = await self._disk.run(read_target, target) if is_url(target) else read_target(target)
        if isinstance(place, Bucket) and self._downloads.decompress:
            raise ValueError(
                "decompress=True is for a directory: the files in a bucket are those that SendGrid "
                "sends, which are gzip. Leave it out; read_contacts and others read gzip."
            )
        return place

    def _deadline(self, timeout: Duration | None) -> Deadline:
        seconds = None if timeout is None else read_duration(timeout, "timeout")
        return Deadline.after(seconds, self._clock.monotonic())

    def _wait_deadline(self, timeout: Duration | None) -> Deadline:
        return self._deadline(self._polling.timeout if timeout is None else timeout)


def _check_export(export: object) -> None:
    if not isinstance(export, ContactExport):
        raise TypeError(f"export must be a ContactExport, not {type(export).__name__}")
    check_text(export.id, "export.id")


def _check_ready(export: ContactExport) -> None:
    listed = bool(export.urls) or export.contact_count == 0
    if export.status is not ExportStatus.READY or not listed:
        raise ExportNotReadyError(
            f"Export {export.id} is {export.status_text or export.status.value}"
            f"{'' if listed else ', and no files are listed'}: "
            "wait for it before the download, or call fetch, which does both.",
            export_id=export.id,
            export=export,
        )


def _hosts(base_url: str, eu_base_url: str | None) -> dict[str, str]:
    """Return the base url of each region, as far as it is known.

    A key that is for another host than SendGrid's, such as a proxy, is not sent to SendGrid's.
    """
    if base_url in {_BASE_URL, _EU_BASE_URL}:
        return {"global": _BASE_URL, "eu": eu_base_url or _EU_BASE_URL}
    return {"global": base_url, **({"eu": eu_base_url} if eu_base_url else {})}


def _listener(on_event: object, account: str | None) -> OnEvent:
    if on_event is not None and not callable(on_event):
        raise TypeError(f"on_event must be a function, not {type(on_event).__name__}")
    if any(map(inspect.iscoroutinefunction, (on_event, type(on_event).__call__))):
        raise TypeError("on_event must be a plain function: a coroutine would not be awaited")

    def tell(event: Event) -> None:
        if account is not None:
            event = attrs.evolve(event, account=account)
        log(event)
        if on_event is not None:
            on_event(event)

    return tell


def _policy(policy: P | None, kind: type[P], name: str) -> P:
    if policy is None:
        return kind()
    if not isinstance(policy, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {type(policy).__name__}")
    return policy


class _ClientArguments(TypedDict, total=False):
    session: aiohttp.ClientSession | None
    base_url: str
    eu_base_url: str | None
    on_behalf_of: str | None
    allow_insecure_http: bool
    polling: PollPolicy | None
    downloads: DownloadPolicy | None
    clock: Clock | None
    random: Random


async def fetch_export(
    export_id: str,
    target: Target,
    *,
    api_key: str,
    timeout: Duration | None = None,
    on_event: OnEvent | None = None,
    **client: Unpack[_ClientArguments],
) -> DownloadResult:
    """Wait for an export and download its files, complete and verified.

    Another call with the same id and target resumes.

    Args:
        export_id: the export.
        target: where the files go: a directory, made if need be; a url such as
            `s3://bucket/prefix`, `gs://`, `az://`, `memory://` or `file://`; or a `Bucket`.
        api_key: SendGrid's API key.
        timeout: seconds for everything; None: see `ExportClient.fetch`.
        on_event: receives every event.
        client: the other arguments of `ExportClient`.

    Raises:
        What `ExportClient.fetch` raises.
    """
    async with ExportClient(api_key, **client) as exports:
        return await exports.fetch(export_id, target, timeout=timeout, on_event=on_event)


async def export_contacts(
    target: Target,
    *,
    api_key: str,
    list_ids: Sequence[str] = (),
    segment_ids: Sequence[str] = (),
    file_type: Literal["csv", "json"] = "csv",
    max_file_size: int | None = None,
    notify_email: bool = False,
    timeout: Duration | None = None,
    on_event: OnEvent | None = None,
    **client: Unpack[_ClientArguments],
) -> DownloadResult:
    """Start an export, wait for it, and download its files, complete and verified.

    The id is in an `ExportStarted` event and in a manifest in `target` at once; should this
    process die, `fetch_export` with that id resumes.

    Args:
        target: where the files go: a directory, made if need be; a url such as
            `s3://bucket/prefix`, `gs://`, `az://`, `memory://` or `file://`; or a `Bucket`.
        api_key: SendGrid's API key.
        list_ids: as for `ExportClient.start`.
        segment_ids: as for `ExportClient.start`.
        file_type: as for `ExportClient.start`.
        max_file_size: as for `ExportClient.start`, in megabytes.
        notify_email: as for `ExportClient.start`.
        timeout: seconds for everything; None: see `ExportClient.fetch`.
        on_event: receives every event.
        client: the other arguments of `ExportClient`.

    Raises:
        What `ExportClient.start` and `ExportClient.fetch` raise.
    """
    request = start_request(
        list_ids=list_ids,
        segment_ids=segment_ids,
        file_type=file_type,
        max_file_size=max_file_size,
        notify_email=notify_email,
    )
    async with ExportClient(api_key, **client) as exports:
        return await exports._export(request, target, timeout=timeout, on_event=on_event)  # noqa: SLF001
