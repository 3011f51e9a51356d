"""The seam to aiohttp: send, stream, who owns the session, and what its errors mean.

Whatever a borrowed session carries of its own (a timeout, `raise_for_status`, decompression,
redirects) is overridden for each request. The key travels with single requests, never on the
session, where it would go to every host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import datetime
from types import TracebackType

import aiohttp
import attrs
from yarl import URL

from sendgrid_exports.errors import InvalidResponseError, TransportError
from sendgrid_exports.messages import Response, read_http_date
from sendgrid_exports.receiving import Body, open_body
from sendgrid_exports.redaction import redact_text, redact_url
from sendgrid_exports.timing import Clock, SystemClock

__all__ = ["Session", "Stream", "translate"]

_API_SECONDS = 30.0
_CONNECT_SECONDS = 15.0
_LONGEST_BODY = 64 * 1024 * 1024
_LONGEST_ERROR_BODY = 64 * 1024
_READ_BUFFER = 64 * 1024
_BLOCK = 1024 * 1024
# A host such as `a..b` has no form on the wire: it is an error of encoding there.
_INVALID_URL = aiohttp.InvalidURL | UnicodeError

# Their context shows headers and urls, even where it is suppressed: what they become is raised
# outside of the handlers.
_FOREIGN = (aiohttp.ClientError, TimeoutError, OSError, UnicodeError)


@attrs.frozen
class Stream:
    """An answer whose body is still on its way."""

    status: int
    headers: Mapping[str, str]
    body: Body
    _what: str
    _read_timeout: float

    async def blocks(self) -> AsyncGenerator[memoryview, None]:
        """Yield the body, raw and undecoded, in blocks; each is valid until the next is asked for.

        Raises:
            TransportError: the body broke off, after everything that had arrived was yielded.
        """
        try:
            async with aclosing(self.body.blocks()) as blocks:
                async for block in blocks:
                    yield block
        except _FOREIGN as error:
            failure = translate(error, self._what)
        else:
            return
        raise failure

    @property
    def date(self) -> datetime | None:
        """The server's clock when it answered, or None."""
        return read_http_date(self.headers.get("date", ""))

    async def text(self) -> str:
        """Return the beginning of the body, which is to be quoted as an error."""
        body = bytearray()
        with contextlib.suppress(TimeoutError):
            async with SystemClock().timeout(self._read_timeout), aclosing(self.blocks()) as blocks:
                async for block in blocks:
                    body += block
                    if len(body) >= _LONGEST_ERROR_BODY:
                        break
        return body[:_LONGEST_ERROR_BODY].decode("utf-8", "replace")


class Session:
    """One aiohttp session: the caller's, never closed here, or our own, made when first needed."""

    def __init__(
        self, borrowed: aiohttp.ClientSession | None = None, clock: Clock | None = None
    ) -> None:
        if borrowed is not None:
            _check_borrowed(borrowed)
        self._borrowed = borrowed
        self._own: aiohttp.ClientSession | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bodies: set[Body | aiohttp.StreamReader] = set()
        self._clock = clock if clock is not None else SystemClock()

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> Response:
        """Return the whole answer to one request of the API, decoded from any gzip.

        Raises:
            TransportError: no complete answer came.
            InvalidResponseError: the answer is larger than any that is documented.
        """
        what = f"{method} {redact_url(url)}"
        timeout = aiohttp.ClientTimeout(total=_API_SECONDS, sock_connect=_CONNECT_SECONDS)
        try:
            async with self._session().request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                timeout=timeout,
                allow_redirects=False,
                raise_for_status=False,
                auto_decompress=True,
            ) as answer:
                received = bytearray()
                with self._open_body(answer.content):
                    async for chunk in answer.content.iter_any():
                        received += chunk
                        if len(received) > _LONGEST_BODY:
                            raise InvalidResponseError(
                                f"The answer to {what} is longer than {_LONGEST_BODY:,} bytes: "
                                "check base_url and the proxies on the way."
                            )
                return Response(
                    status=answer.status, headers=_lowered(answer), body=bytes(received)
                )
        except _FOREIGN as error:
            failure = translate(error, what)
        except ValueError as error:
            # What aiohttp says where a session with trust_env finds the host in a netrc file.
            if "AUTHORIZATION" not in str(error):
                raise
            failure = TransportError(
                f"{what} was not sent: the session lent takes credentials for that host from a "
                "netrc file. Lend one with trust_env=False, or remove them there.",
                request_sent=False,
                transient=False,
            )
        raise failure

    @asynccontextmanager
    async def stream(
        self, url: str, *, headers: Mapping[str, str], read_timeout: float, block: int = _BLOCK
    ) -> AsyncIterator[Stream]:
        """Open a link, sent byte for byte; the body is read as it comes, for as long as it takes.

        Raises:
            TransportError: no answer came, or (from `Stream.blocks`) it broke off.
        """
        what = f"GET {redact_url(url)}"
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=min(_CONNECT_SECONDS, read_timeout), sock_read=read_timeout
        )
        failure = None
        try:
            # A head that trickles keeps the read timeout happy.
            async with SystemClock().timeout(2 * read_timeout):
                answer = await self._session().get(
                    URL(url, encoded=True),
                    headers={**headers, "Accept-Encoding": "identity"},
                    timeout=timeout,
                    allow_redirects=False,
                    raise_for_status=False,
                    auto_decompress=False,
                    read_bufsize=_READ_BUFFER,
                )
        except _FOREIGN as error:
            failure = translate(error, what)
        if failure is not None:
            raise failure
        async with answer:
            if answer.connection is not None and answer.connection.protocol is not None:
                answer.connection.protocol.read_timeout = None
            body = open_body(answer, block=block, read_timeout=read_timeout, clock=self._clock)
            with self._open_body(body):
                yield Stream(answer.status, _lowered(answer), body, what, read_timeout)

    @contextmanager
    def _open_body(self, body: Body | aiohttp.StreamReader) -> Iterator[None]:
        """Have `close` end the reading of `body`."""
        self._bodies.add(body)
        if self._closed:
            _end(body)
        try:
            yield
        finally:
            self._bodies.discard(body)

    async def close(self) -> None:
        """Close our own session, if there is one; a borrowed one stays open."""
        self._closed = True
        for body in self._bodies:
            _end(body)
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("The ExportClient is closed; make another one.")
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            raise RuntimeError(
                "The ExportClient is used in another event loop than before; make one for each."
            )
        self._loop = loop
        if self._borrowed is not None:
            if self._borrowed.closed:
                raise RuntimeError("The session lent to ExportClient is closed.")
            return self._borrowed
        if self._own is None:
            # No limit here: how many connections are open at once is the download's to decide.
            self._own = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._own


def _end(body: Body | aiohttp.StreamReader) -> None:
    # Its reader would wait for bytes that never come.
    error = aiohttp.ClientConnectionError("the client was closed")
    if isinstance(body, aiohttp.StreamReader):
        body.set_exception(error)
    else:
        body.fail(error)


def _check_borrowed(session: object) -> None:
    if not isinstance(session, aiohttp.ClientSession):
        raise TypeError(f"session must be an aiohttp.ClientSession, not {type(session).__name__}")
    if session.closed:
        raise ValueError("session is closed already")
    if "Authorization" in session.headers or session.auth is not None:
        raise ValueError(
            "session carries an Authorization of its own, which would go to the storage host too "
            "and be refused there; lend a session without it"
        )


def _lowered(answer: aiohttp.ClientResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in answer.headers.items():
        headers.setdefault(name.lower(), value)
    return headers


def translate(error: Exception, what: str) -> TransportError:
    """Return the one error of ours for any of aiohttp's, without the headers and urls it prints."""
    kind = type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        said = f"{error.status} {redact_text(error.message)}"
    elif isinstance(error, _INVALID_URL):
        said = "the url is not valid"
    else:
        said = redact_text(str(error)).replace(" ssl:default ", " ")
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        return TransportError(
            f"{what} was not sent: too many open files. Raise the limit (ulimit -n), or lower "
            "DownloadPolicy.connections.",
            request_sent=False,
            transient=False,
        )
    unsent = isinstance(
        error,
        aiohttp.ClientConnectorError
        | aiohttp.ConnectionTimeoutError
        | aiohttp.ClientHttpProxyError
        | aiohttp.ServerFingerprintMismatch
        | _INVALID_URL,
    )
    hopeless = isinstance(
        error,
        aiohttp.ClientConnectorCertificateError | aiohttp.ServerFingerprintMismatch | _INVALID_URL,
    )
    return TransportError(
        f"{what} brought no complete answer: {kind}" + (f" ({said})" if said else ""),
        request_sent=not unsent,
        transient=not hopeless,
    )
