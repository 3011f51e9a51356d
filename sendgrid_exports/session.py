"""The adapter to aiohttp: opening a session, sending, streaming, and what aiohttp's errors mean.

What a borrowed session sets for itself (a timeout, `raise_for_status`, decompression, redirects)
is overridden for each request. The API key goes with single requests, never on the session, which
would send it to every host.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import datetime
from types import UnionType
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import attrs
from yarl import URL

from sendgrid_exports.errors import InvalidResponseError, TransportError
from sendgrid_exports.http import Response, is_loopback, read_http_date
from sendgrid_exports.receiving import Body, open_body
from sendgrid_exports.redaction import redact_text, redact_url
from sendgrid_exports.timing import Clock, SystemClock

__all__ = ["Session", "Stream", "open_shared_session", "translate"]

_API_SECONDS = 30.0
_CONNECT_SECONDS = 15.0
_LONGEST_BODY = 64 * 1024 * 1024
_LONGEST_ERROR_BODY = 64 * 1024
_READ_BUFFER = 64 * 1024
_BLOCK = 1024 * 1024
_CLOSED = "the client was closed"
# A host such as `a..b` has no form on the wire: it is an error of encoding there.
_INVALID_URL = aiohttp.InvalidURL | UnicodeError

# Their context shows headers and urls, even if it is suppressed: the error of ours is raised after
# the except clause has ended.
_FOREIGN = (aiohttp.ClientError, TimeoutError, OSError, UnicodeError)


@attrs.frozen
class Stream:
    """An answer whose body is still on its way."""

    status: int
    headers: Mapping[str, str]
    body: Body
    _url: str = attrs.field(repr=False)
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
            failure = translate(error, f"GET {redact_url(self._url)}")
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
    """One aiohttp session: the caller's, never closed here, or our own, opened when first used."""

    def __init__(
        self, borrowed: aiohttp.ClientSession | None = None, clock: Clock | None = None
    ) -> None:
        if borrowed is not None:
            _check_borrowed(borrowed)
        self._borrowed = borrowed
        self._own: aiohttp.ClientSession | None = None
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._bodies: set[Callable[[Exception], None]] = set()
        self._clock = clock if clock is not None else SystemClock()
        self._proxies: dict[tuple[str, str], URL | None] = {}

    def most_connections(self, wanted: int) -> int:
        """Return how many of `wanted` connections to the storage a borrowed session allows.

        A request that waits within the session can't be told from one that gets no answer. One
        connection is left to the API.
        """
        connector = None if self._borrowed is None else self._borrowed.connector
        if connector is None:
            return wanted
        # A limit of 0 means no limit.
        in_all = max(1, connector.limit - 1) if connector.limit else wanted
        return min(wanted, in_all, connector.limit_per_host or wanted)

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        secret: str = "",
    ) -> Response:
        """Return the whole response to one request of the API, decoded from any gzip.

        `secret` is hidden in it and in errors: some proxies quote the request in their pages.

        Raises:
            TransportError: no complete answer came.
            InvalidResponseError: the answer is larger than any that is documented.
        """
        what = f"{method} {redact_url(url)}"
        if "User-Agent" in self._session().headers:
            # A borrowed session that has a name of its own keeps it.
            headers = {name: text for name, text in headers.items() if name != "User-Agent"}
        timeout = aiohttp.ClientTimeout(total=_API_SECONDS, sock_connect=_CONNECT_SECONDS)
        try:
            async with await self._request(
                method, url, headers=headers, data=body, timeout=timeout, auto_decompress=True
            ) as answer:
                received = bytearray()
                with self._ended_by_close(answer.content.set_exception):
                    async for chunk in answer.content.iter_any():
                        received += chunk
                        if len(received) > _LONGEST_BODY:
                            raise InvalidResponseError(
                                f"The answer to {what} is longer than {_LONGEST_BODY:,} bytes: "
                                "check base_url and the proxies on the way."
                            )
                if secret:
                    received = received.replace(secret.encode(), b"[redacted]")
                return Response(
                    status=answer.status, headers=_lowered(answer), body=bytes(received)
                )
        except _FOREIGN as error:
            failure = translate(error, what, of_api=True, secret=secret)
        raise failure

    @asynccontextmanager
    async def stream(
        self, url: str, *, headers: Mapping[str, str], read_timeout: float, block: int = _BLOCK
    ) -> AsyncIterator[Stream]:
        """Open a link, sent byte for byte; the body is read as it comes, for as long as it takes.

        Raises:
            TransportError: no answer came, or (from `Stream.blocks`) it broke off.
        """
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=min(_CONNECT_SECONDS, read_timeout), sock_read=read_timeout
        )
        failure = None
        try:
            # A head that trickles keeps the read timeout happy.
            async with SystemClock().timeout(2 * read_timeout):
                answer = await self._request(
                    "GET",
                    url,
                    headers={**headers, "Accept-Encoding": "identity"},
                    timeout=timeout,
                    auto_decompress=False,
                    read_bufsize=_READ_BUFFER,
                )
        except _FOREIGN as error:
            failure = translate(error, f"GET {redact_url(url)}")
        if failure is not None:
            raise failure
        async with answer:
            if answer.connection is not None and answer.connection.protocol is not None:
                answer.connection.protocol.read_timeout = None
            body = open_body(answer, block=block, read_timeout=read_timeout, clock=self._clock)
            with self._ended_by_close(body.fail):
                yield Stream(answer.status, _lowered(answer), body, url, read_timeout)

    async def _request(
        self, method: str, url: str, *, headers: Mapping[str, str], **options: Any
    ) -> aiohttp.ClientResponse:
        """Send a request, `url` byte for byte, and return the response once its head arrived."""
        session, target = self._session(), URL(url, encoded=True)
        try:
            answer = await session.request(
                method,
                target,
                headers=headers,
                proxy=await self._proxy(target),
                allow_redirects=False,
                raise_for_status=False,
                **options,
            )
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # A session that is closed cancels its search for an address, and so this await alone.
            raise aiohttp.ClientConnectionError("the session was closed") from None
        if answer.request_info.headers.get("Authorization") != headers.get("Authorization"):
            answer.close()
            raise TransportError(
                "The session passed to ExportClient, or a middleware of it, changes the "
                f"Authorization header: {method} {redact_url(url)} was not sent as it should be. "
                "Pass a session that leaves it alone.",
                transient=False,
            )
        return answer

    async def _proxy(self, url: URL) -> URL | None:
        """Return the proxy that the environment names for `url`, as curl and pip read it.

        Raises:
            TransportError: that proxy can't be used.
        """
        if self._borrowed is not None and not self._borrowed.trust_env:
            return None
        key = (url.scheme, url.host or "")
        if key not in self._proxies:
            named = None
            if not is_loopback(key[1]):
                # macOS and Windows also ask the system's settings, and may resolve the name.
                named = await asyncio.to_thread(_named_proxy, *key)
            self._proxies[key] = _read_proxy(named, f"{url.scheme.upper()}_PROXY")
        return self._proxies[key]

    @contextmanager
    def _ended_by_close(self, fail: Callable[[Exception], None]) -> Iterator[None]:
        """Have `close` end the reading of a body by `fail`: its bytes would never come."""
        self._bodies.add(fail)
        if self._closed:
            fail(aiohttp.ClientConnectionError(_CLOSED))
        try:
            yield
        finally:
            self._bodies.discard(fail)

    async def close(self) -> None:
        """Close our own session, if there is one; a borrowed one stays open."""
        self._closed = True
        for fail in self._bodies:
            fail(aiohttp.ClientConnectionError(_CLOSED))
        if self._own is not None:
            await self._own.close()

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("The ExportClient is closed; create another one.")
        loop = asyncio.get_running_loop()
        if self._loop not in {None, loop}:
            raise RuntimeError(
                "The ExportClient is used in another event loop than before; create one for each."
            )
        self._loop = loop
        borrowed = self._borrowed
        if borrowed is not None and borrowed.closed:
            raise RuntimeError("The session passed to ExportClient is closed.")
        if borrowed is not None and not borrowed.trust_env:
            return borrowed
        if self._own is None and borrowed is not None:
            # With trust_env, aiohttp would add the credentials of a netrc file to every request.
            self._own = aiohttp.ClientSession(
                connector=borrowed.connector,
                connector_owner=False,
                headers=borrowed.headers,
                cookie_jar=borrowed.cookie_jar,
                trace_configs=borrowed.trace_configs,
            )
        elif self._own is None:
            # No limit here: the download limits its connections itself.
            self._own = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, resolver=_Resolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._own


def open_shared_session(connections: int) -> aiohttp.ClientSession:
    """Return a session that many clients of one event loop may borrow; the caller closes it.

    They share `connections` connections, and obey the proxies that a client's own session obeys.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, resolver=_Resolver()),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=True,
    )


def _named_proxy(scheme: str, host: str) -> str | None:
    return None if proxy_bypass(host) else getproxies().get(scheme)


def _read_proxy(named: str | None, variable: str) -> URL | None:
    if not named:
        return None
    try:
        proxy = URL(named if "://" in named else f"http://{named}")
        if proxy.scheme in {"http", "https"} and proxy.host:
            return proxy
    except ValueError:
        pass
    raise TransportError(
        f"No request was sent: {variable} names a proxy that can't be used. Let it begin with "
        "http:// or https://, or name the host in NO_PROXY.",
        request_sent=False,
        transient=False,
    )


def _check_borrowed(session: object) -> None:
    if not isinstance(session, aiohttp.ClientSession):
        raise TypeError(f"session must be an aiohttp.ClientSession, not {type(session).__name__}")
    if session.closed:
        raise ValueError("session is closed")
    if "Authorization" in session.headers or session.auth is not None:
        raise ValueError(
            "session has an Authorization of its own, which would go to the storage host too and "
            "be refused there; pass a session without it"
        )


def _lowered(answer: aiohttp.ClientResponse) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in answer.headers.items():
        headers.setdefault(name.lower(), value)
    return headers


_ADVICE = "Check the network and base_url, or try later."
_HOPELESS_ADVICE = (
    "Check the network and base_url, any proxy, and the clock and the CA certificates of this "
    "machine."
)
_CAUSES: tuple[tuple[type[BaseException] | UnionType, str], ...] = (
    (aiohttp.ClientConnectorDNSError, "The host name can't be resolved"),
    (aiohttp.ClientProxyConnectionError, "The proxy can't be reached"),
    (aiohttp.ClientHttpProxyError, "The proxy refused to connect"),
    (aiohttp.ClientConnectorCertificateError, "The TLS certificate is not trusted"),
    (aiohttp.ServerFingerprintMismatch, "The TLS certificate is not the expected one"),
    (aiohttp.ClientSSLError, "No TLS connection could be made"),
    (aiohttp.ClientConnectorError, "The host can't be reached"),
    (aiohttp.ConnectionTimeoutError, "The host can't be reached in time"),
    (TimeoutError, "No answer came in time"),
    (aiohttp.ServerDisconnectedError, "The connection was closed before an answer came"),
    (aiohttp.ClientPayloadError, "The answer broke off or can't be decoded"),
    (aiohttp.ClientResponseError, "The answer is not valid HTTP"),
    (_INVALID_URL, "The url is not valid"),
    (aiohttp.ClientConnectionError | OSError, "The connection broke"),
)


def translate(
    error: Exception, what: str, *, of_api: bool = False, secret: str = ""
) -> TransportError:
    """Return the one error of ours for any of aiohttp's, without the headers and urls it prints.

    The message begins with the cause in plain words, so that a narrow terminal shows that much.
    """
    if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
        return TransportError(
            f"Too many files are open: {what} was not sent. Raise the limit (ulimit -n), or lower "
            "DownloadPolicy.connections.",
            request_sent=False,
            transient=False,
        )
    said = type(error).__name__
    if isinstance(error, aiohttp.ClientResponseError):
        said += f": {error.status} {redact_text(error.message)}"
    elif not isinstance(error, _INVALID_URL) and str(error):
        said += f": {redact_text(str(error)).replace(' ssl:default ', ' ')}"
    if secret:
        said = said.replace(secret, "[redacted]")
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
    cause = next((words for kind, words in _CAUSES if isinstance(error, kind)), "No answer came")
    advice = f". {_HOPELESS_ADVICE if hopeless else _ADVICE}" if of_api else ""
    return TransportError(
        f"{cause}: {what} ({said}){advice}", request_sent=not unsent, transient=not hopeless
    )
