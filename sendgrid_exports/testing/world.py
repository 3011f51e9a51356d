"""What both servers know: settings, exports and their files, and the requests so far."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import attrs

from sendgrid_exports.testing.accounts import Account, FakeSubuser, RateLimits, as_texts
from sendgrid_exports.testing.files import ContactFiles, Spool, SpooledFile
from sendgrid_exports.testing.signing import LinkSigner
from sendgrid_exports.timing import Clock, SystemClock

if TYPE_CHECKING:
    from aiohttp import web

__all__ = [
    "AfterExpiry",
    "ETagKind",
    "Export",
    "RecordedRequest",
    "Recording",
    "Settings",
    "StoredFile",
    "Times",
    "World",
]

AfterExpiry = Literal["not_found", "no_urls", "dead_urls"]
ETagKind = Literal["md5", "multipart", "kms", "weak", "none"]
ServerName = Literal["api", "storage"]

_BUCKET = "fake-sendgrid-exports"
_GZIP_MAGIC = b"\x1f\x8b"


@attrs.define(kw_only=True, eq=False, slots=False)
class Settings(Account):
    """How the service behaves; `FakeSendGrid`, which is one, documents each."""

    link_lifetime: float = 300.0
    file_lifetime: float = 43_200.0
    compressed: bool = True
    content_encoding: str | None = "x-gzip"
    etag: ETagKind = "md5"
    repeat_header: bool = True
    after_expiry: AfterExpiry = "not_found"
    checksum_headers: bool | Literal["sha256", "crc32"] = False
    list_page_size: int | None = None
    api_key: str = "SG.fake-key-id.fake-key-secret"
    scopes: tuple[str, ...] = attrs.field(
        default=("mail.send", "marketing.read", "subusers.read"), converter=as_texts
    )
    subusers: Sequence[FakeSubuser] | None = None
    rate_limit: int | None = None
    subuser_rate_limit: int | None = None
    clock: Clock = attrs.field(factory=SystemClock)
    seed: int = 0


@attrs.define(kw_only=True)
class Times:
    """Which of the requests that something is for meet it: `times` None is for ever."""

    times: int | None
    skip: int

    def count(self) -> bool:
        """Count a request, and return whether it meets it."""
        if self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@attrs.frozen(kw_only=True)
class StoredFile:
    """One object of the storage: `path` is that of its links, percent-encoded."""

    path: str
    spooled: SpooledFile
    etag: str | None
    modified: datetime
    encoding: str | None
    content_type: str


@attrs.define(kw_only=True)
class Export:
    """One export; with `ready_at` time decides about its status, otherwise each poll takes a step.

    `owner` is a subuser's username, empty for the parent account.
    """

    id: str
    owner: str
    file_type: str
    statuses: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    ready_at: datetime | None
    message: str | None
    contact_count: int | None
    start: int = 0
    contacts: int = 0
    lists: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    files: list[StoredFile] = attrs.field(factory=list)
    polls: int = 0
    updated_at: datetime = attrs.field()
    completed_at: datetime | None = attrs.field()
    removed: bool = False

    @updated_at.default
    def _updated_at_first(self) -> datetime:
        return self.created_at

    @completed_at.default
    def _completed_at_first(self) -> datetime | None:
        return self.created_at if self.status == "ready" else None

    @property
    def status(self) -> str:
        """What the last poll saw, or the first one will see."""
        return self.statuses[min(max(0, self.polls - 1), len(self.statuses) - 1)]

    def observe(self, now: datetime, *, poll: bool) -> str:
        """Return the status at `now`; unless time decides, a poll takes the next step."""
        before = self.status
        if self.ready_at is not None:
            self.polls = len(self.statuses) if now >= self.ready_at else 1
        elif poll:
            self.polls += 1
        if self.status != before:
            self.updated_at = now if self.ready_at is None else self.ready_at
            if self.status == "ready":
                self.completed_at = self.updated_at
        return self.status


class World:
    """The exports and objects of an account and its subusers, on one clock."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = settings.clock
        self.limits = RateLimits()
        self.spool = Spool()
        self.signer = LinkSigner(settings.seed)
        self.exports: dict[str, Export] = {}
        self.objects: dict[str, tuple[Export, int]] = {}
        self.subusers = {subuser.username: subuser for subuser in settings.subusers or ()}
        if len(self.subusers) < len(settings.subusers or ()):
            raise ValueError("two subusers have the same username")
        self.storage_url = ""
        self._made = 0

    def export(self, export_id: str) -> Export:
        """Return the export, or raise `KeyError` naming it."""
        return self.exports[export_id]

    async def add(
        self,
        *,
        account: Account,
        owner: str,
        file_type: str,
        export_id: str | None = None,
        start: int = 0,
        bodies: Sequence[bytes] | None = None,
        names: Sequence[str] | None = None,
        contact_count: int | None,
        max_size: int | None = None,
        lists: Sequence[str] = (),
        segments: Sequence[str] = (),
    ) -> Export:
        """Store the files of a new export, then register it."""
        if bodies is None:
            order = ContactFiles(
                contacts=account.contacts,
                files=account.files,
                file_type=file_type,
                compressed=self.settings.compressed,
                repeat_header=self.settings.repeat_header,
                seed=self.settings.seed,
                start=start,
                max_size=max_size,
            )
            spooled = await self.spool.write_contacts(order)
            packed = [self.settings.compressed] * len(spooled)
        else:
            spooled = tuple([await self.spool.write(body) for body in bodies])
            packed = [body.startswith(_GZIP_MAGIC) for body in bodies]
        now = self.clock.utc()
        export = Export(
            id=self._new_id("export") if export_id is None else export_id,
            owner=owner,
            file_type=file_type,
            statuses=account.statuses,
            created_at=now,
            expires_at=now + timedelta(seconds=self.settings.file_lifetime),
            ready_at=None
            if account.ready_after is None
            else now + timedelta(seconds=account.ready_after),
            message=account.message,
            contact_count=contact_count,
            start=start,
            contacts=account.contacts if bodies is None else 0,
            lists=tuple(lists),
            segments=tuple(segments),
        )
        suffix = f".{file_type}.gzip" if self.settings.compressed else f".{file_type}"
        if names is None:
            names = [self._new_id("file") + suffix for _ in spooled]
        if len(names) != len(spooled):
            raise ValueError(f"there are {len(spooled)} files, but {len(names)} names")
        export.files = [
            self._object(f"/{_BUCKET}/{quote(name)}", file, file_type, compressed)
            for name, file, compressed in zip(names, spooled, packed, strict=True)
        ]
        objects = {file.path: (export, n) for n, file in enumerate(export.files, start=1)}
        if export.id in self.exports or len(objects) < len(names) or objects.keys() & self.objects:
            raise ValueError("there is an export of that id, or a file of that name, already")
        self.exports[export.id] = export
        self.objects |= objects
        return export

    async def replace(self, export: Export, number: int, body: bytes) -> None:
        """Put another object in the place of file `number`; answers under way keep the old one."""
        old = export.files[number - 1]
        spooled = await self.spool.write(body)
        export.files[number - 1] = attrs.evolve(
            old,
            spooled=spooled,
            etag=self._etag(spooled),
            modified=self.clock.utc(),
            encoding=self._encoding(body.startswith(_GZIP_MAGIC)),
        )

    def expired(self, export: Export) -> bool:
        """Whether the files' own lifetime is over."""
        return self.clock.utc() >= export.expires_at

    def links(self, export: Export) -> list[str]:
        """Return the files' paths with queries signed just now."""
        now, lifetime = self.clock.utc(), self.settings.link_lifetime
        return [
            f"{file.path}?{self.signer.sign(file.path, now=now, lifetime=lifetime)}"
            for file in export.files
        ]

    def _new_id(self, kind: str) -> str:
        self._made += 1
        digest = hashlib.md5(f"{kind} {self._made} of {self.settings.seed}".encode())
        return str(uuid.UUID(bytes=digest.digest(), version=4))

    def _object(
        self, path: str, spooled: SpooledFile, file_type: str, compressed: bool
    ) -> StoredFile:
        return StoredFile(
            path=path,
            spooled=spooled,
            etag=self._etag(spooled),
            modified=self.clock.utc(),
            encoding=self._encoding(compressed),
            content_type="text/csv" if file_type == "csv" else "application/json",
        )

    def _encoding(self, compressed: bool) -> str | None:
        return self.settings.content_encoding if compressed else None

    def _etag(self, spooled: SpooledFile) -> str | None:
        other = hashlib.md5(f"not the digest {spooled.md5}".encode()).hexdigest()
        return {
            "md5": f'"{spooled.md5}"',
            "multipart": f'"{other}-2"',
            "kms": f'"{other}"',
            "weak": f'W/"{spooled.md5}"',
            "none": None,
        }[self.settings.etag]


@attrs.frozen(kw_only=True)
class RecordedRequest:
    """One request as a server saw it.

    Attributes:
        server: which of the two servers was asked.
        method: the HTTP method.
        path: the path byte for byte as sent, still percent-encoded.
        query: what followed the question mark, byte for byte as sent.
        headers: the request's headers; names ignore case.
        body: the request's body.
        at: when it came, by the server's clock.
        status: the status answered, None before or without an answer.
        sent: body bytes of the answer handed to the socket so far.
    """

    server: ServerName
    method: str
    path: str
    query: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    body: bytes = attrs.field(default=b"", repr=False)
    at: datetime
    status: int | None = None
    sent: int = 0


class Recording:
    """The growing list of requests; each entry is replaced as its answer goes out."""

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []

    def begin(
        self, server: ServerName, request: web.BaseRequest, at: datetime, body: bytes = b""
    ) -> int:
        """Note a request that came in, and return the number by which it can be updated."""
        path, _, query = request.raw_path.partition("?")
        recorded = RecordedRequest(
            server=server,
            method=request.method,
            path=path,
            query=query,
            headers=request.headers,
            body=body,
            at=at,
        )
        self.requests.append(recorded)
        return len(self.requests) - 1

    def answered(self, number: int, status: int) -> None:
        """Note the status that was answered."""
        self.requests[number] = attrs.evolve(self.requests[number], status=status)

    def sent(self, number: int, size: int) -> None:
        """Note that `size` more body bytes went out."""
        request = self.requests[number]
        self.requests[number] = attrs.evolve(request, sent=request.sent + size)
