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
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from types import TracebackType
from typing import Any

import aiohttp
import attrs
from yarl import URL

from sendgrid_exports.errors import InvalidResponseError, TransportError
from sendgrid_exports.messages import Response, read_http_date
from sendgrid_exports.redaction import redact_text, redact_url
from sendgrid_exports.timing import SystemClock

__all__ = ["Session", "Stream", "translate"]

_API_SECONDS = 30.0
_CONNECT_SECONDS = 15.0
_LONGEST_BODY = 64 * 1024 * 1024
_LONGEST_ERROR_BODY = 64 * 1024
_READ_BUFFER = 512 * 1024
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
    _body: aiohttp.StreamReader
    _what: str
    _read_timeout: float

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield whatever has arrived, raw and undecoded, until the body's end.

        Raises:
            TransportError: the body broke off.
        """
        silence = _Silence(self._body, self._read_timeout)
        try:
            while chunk := await silence.bounded():
                yield chunk
        except _FOREIGN as error:
            failure = translate(error, self._what)
        else:
            return
        finally:
            silence.end()
        # aiohttp raises what broke off before it hands out what had arrived until then.
        body: Any = self._body
        body.set_exception(None)
        if tail := body.read_nowait(-1):
            yield tail
        raise failure

    @property
    def date(self) -> datetime | None:
        """The server's clock when it answered, or None."""
        return read_http_date(self.headers.get("date", ""))

    async def text(self) -> str:
        """Return the beginning of the body, which is to be quoted as an error."""
        body = bytearray()
        with contextlib.suppress(TimeoutError):
            async with SystemClock().timeout(self._read_timeout):
                async for chunk in self.chunks():
                    body += chunk
                    if len(body) >= _LONGEST_ERROR_BODY:
                        break
        return body[:_LONGEST_ERROR_BODY].decode("utf-8", "replace")


class _Silence:
    """Bounds how long a body may be silent, by one timer that looks now and then.

    aiohttp sets a new timer for every chunk, which takes a tenth of a fast transfer's time; and
    it sets none any more once somebody else has closed the session.
    """

    def __init__(self, body: aiohttp.StreamReader, seconds: float) -> None:
        self._body = body
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waiting_since: float | None = None
        self._timer = self._loop.call_later(seconds, self._look)

    async def bounded(self) -> bytes:
        """Return what comes next; time in which nobody waits for it does not count."""
        self._waiting_since = self._loop.time()
        try:
            return await self._body.readany()
        finally:
            self._waiting_since = None

    def end(self) -> None:
        """Look no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        since = now if self._waiting_since is None else self._waiting_since
        if now - since >= self._seconds:
            self._body.set_exception(aiohttp.SocketTimeoutError("the connection is silent"))
        else:
            self._timer = self._loop.call_later(since + self._seconds - now, self._look)


class _Resolver(aiohttp.ThreadedResolver):
    async def resolve(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().resolve(*args, **kwargs)
        except RuntimeError as error:
            # It takes a thread, and a process may have no more of them.
            raise OSError(
                errno.EAGAIN, f"{error}; raise the limit (ulimit -u, or the container's of pids)"
            ) from error


class Session:
    """One aiohttp session: the caller's, never closed here, or our own, made when first needed."""

    def __init__(self, borrowed: aiohttp.ClientSession | None = None) -> None:
        if borrowed is not None:
            _check_borrowed(borrowed)
        self._borrowed = borrowed
        self._own: aiohttp.ClientSession | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bodies: set[aiohttp.StreamReader] = set()

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
        self, url: str, *, headers: Mapping[str, str], read_timeout: float
    ) -> AsyncIterator[Stream]:
        """Open a link, sent byte for byte; the body is read as it comes, for as long as it takes.

        Raises:
            TransportError: no answer came, or (from `Stream.chunks`) it broke off.
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
            with self._open_body(answer.content):
                yield Stream(answer.status, _lowered(answer), answer.content, what, read_timeout)

    @contextmanager
    def _open_body(self, body: aiohttp.StreamReader) -> Iterator[None]:
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
                connector=aiohttp.TCPConnector(limit=0, resolver=_Resolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._own


def _end(body: aiohttp.StreamReader) -> None:
    # Whoever reads it would wait for bytes that nobody brings.
    body.set_exception(aiohttp.ClientConnectionError("the client was closed"))


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
