"""What the servers were asked, in the order in which it came."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

import attrs
from aiohttp import web

__all__ = ["RecordedRequest", "Recording", "ServerName"]

ServerName = Literal["api", "storage"]


@attrs.frozen(kw_only=True)
class RecordedRequest:
    """One request as a server saw it.

    Attributes:
        server: which of the two servers was asked.
        method: the HTTP method.
        path: the path byte for byte as sent, still percent-encoded.
        query: what followed the question mark, byte for byte as sent.
        headers: the request's headers, whatever their case.
        body: the request's body.
        at: when it came, by the server's clock.
        status: the status answered, None while there was no answer (or never one).
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
