"""The API's side: its calls with their documented answers, and scripted ones before them.

Shapes and texts are those of Twilio's OpenAPI documents for exports, subusers and scopes
(https://www.twilio.com/docs/sendgrid/api-reference/contacts/export-contacts,
https://www.twilio.com/docs/sendgrid/api-reference/subusers-api/list-all-subusers,
https://www.twilio.com/docs/sendgrid/api-reference/api-key-permissions), with one exception: the
live API sends `"help": null` with a 401 or 403, where the documents have an object or nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal
from urllib.parse import parse_qs, unquote

import attrs
from aiohttp import web

from sendgrid_exports.testing.accounts import Account, FakeSubuser, Region
from sendgrid_exports.testing.http import drop, http_date
from sendgrid_exports.testing.world import Export, Recording, Times, World

__all__ = ["Call", "FakeAPI", "ScriptedAnswer", "body_of"]

Call = Literal["start", "status", "list", "subusers", "scopes"]

_PATH: Final = "/v3/marketing/contacts/exports"
_SUBUSERS: Final = "/v3/subusers"
_SCOPES: Final = "/v3/scopes"
# Twilio names no default and no largest page: a client must not count on getting what it asks for.
_LARGEST_PAGE: Final = 500
_SCOPE_OF: Final[Mapping[str, str]] = {
    "start": "marketing.read",
    "status": "marketing.read",
    "list": "marketing.read",
    "subusers": "subusers.read",
}
_TEXTS: Final = {
    400: "invalid request",
    401: "The provided authorization grant is invalid, expired, or revoked",
    403: "access forbidden",
    404: "resource not found",
    405: "method not allowed",
    429: "too many requests",
}


@attrs.define(kw_only=True)
class ScriptedAnswer(Times):
    """An answer in the queue; `status` None drops the connection."""

    status: int | None
    body: bytes
    content_type: str
    headers: Mapping[str, str]
    on: Call | None
    processed: bool
    delay: float

    def applies(self, call: Call | None) -> bool:
        """Return whether a request for `call` is answered so, and count it."""
        return self.on in {None, call} and self.count()


class FakeAPI:
    """Answers requests to the API of one region; `url` is set once its server listens."""

    def __init__(
        self, world: World, recording: Recording, scripts: Sequence[ScriptedAnswer], region: Region
    ) -> None:
        self.url = ""
        self._world = world
        self._recording = recording
        self._scripts = scripts
        self._region = region
        self._request_ids = itertools.count(1)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Record the request and answer it."""
        body = await request.read()
        number = self._recording.begin("api", request, self._world.clock.utc(), body)
        path, _, query = request.raw_path.partition("?")
        call, export_id, otherwise = _route(request.method, path)
        script = next((script for script in self._scripts if script.applies(call)), None)
        response: web.Response | None = None
        if script is None or script.processed:
            scheme, _, key = request.headers.get("Authorization", "").partition(" ")
            key = key if scheme == "Bearer" else ""
            caller = self._caller(key, request.headers.get("on-behalf-of"))
            if isinstance(caller, web.Response):
                response = caller
            elif call is None:
                response = error(otherwise)
            else:
                response = await self._do(call, caller, key, export_id, query, body)
        if script is not None:
            response = await self._play(script)
        if response is None:
            drop(request)
            return web.Response()
        response.headers.setdefault("Date", http_date(self._world.clock.utc()))
        response.headers.setdefault("Server", "nginx")
        response.headers.setdefault("X-Request-Id", f"fake-request-{next(self._request_ids)}")
        self._recording.answered(number, response.status)
        self._recording.sent(number, response.content_length or 0)
        return response

    def _caller(self, key: str, name: str | None) -> Account | web.Response:
        """Return the account that a request acts for, or the answer that refuses it."""
        world = self._world
        if key != world.settings.api_key:
            own = (subuser for subuser in world.subusers.values() if subuser.api_key == key)
            subuser = next(own, None)
            if subuser is None:
                return error(401)
            if name is not None:
                return error(403)
        elif name is None or world.settings.subusers is None:
            return world.settings if self._region == "global" else error(401)
        else:
            subuser = world.subusers.get(name)
        if subuser is None or subuser.disabled:
            return error(403)
        return subuser if subuser.region == self._region else error(401)

    async def _do(
        self, call: Call, caller: Account, key: str, export_id: str, query: str, body: bytes
    ) -> web.Response:
        settings = self._world.settings
        owner = caller.username if isinstance(caller, FakeSubuser) else ""
        limits = {
            f"key {key}": settings.rate_limit,
            f"subuser {owner}": settings.subuser_rate_limit if owner else None,
        }
        is_allowed, headers = self._world.limits.take(limits, self._world.clock.utc())
        if not is_allowed:
            response = error(429)
        elif _SCOPE_OF.get(call) not in {None, *settings.scopes}:
            response = error(403)
        elif call == "start":
            response = await self._start(caller, owner, body)
        elif call == "status":
            response = self._status(owner, export_id)
        elif call == "list":
            response = self._list(owner, query)
        elif call == "subusers":
            response = self._subusers(owner, query)
        else:
            response = json_answer(200, {"scopes": list(settings.scopes)})
        response.headers.update(headers)
        return response

    async def _play(self, script: ScriptedAnswer) -> web.Response | None:
        if math.isinf(script.delay):
            await asyncio.Event().wait()
        elif script.delay:
            await self._world.clock.sleep(script.delay)
        if script.status is None:
            return None
        response = web.Response(
            status=script.status, body=script.body, content_type=script.content_type
        )
        response.headers.update(script.headers)
        return response

    async def _start(self, account: Account, owner: str, body: bytes) -> web.Response:
        try:
            wanted = json.loads(body) if body.strip() else {}
        except ValueError:
            return error(400, "request body could not be parsed as JSON")
        if not isinstance(wanted, dict):
            return error(400, "request body must be a JSON object")
        for field, (is_valid, text) in _FIELDS.items():
            if wanted.get(field) is not None and not is_valid(wanted[field]):
                return error(400, text, field)
        max_size = wanted.get("max_file_size")
        export = await self._world.add(
            account=account,
            owner=owner,
            file_type=wanted.get("file_type") or "csv",
            contact_count=account.contacts,
            max_size=None if max_size is None else max_size * 1_000_000,
            lists=wanted.get("list_ids") or (),
            segments=wanted.get("segment_ids") or (),
        )
        return json_answer(202, {"id": export.id, "_metadata": {"self": f"{self.url}{_PATH}"}})

    def _status(self, owner: str, export_id: str) -> web.Response:
        world = self._world
        export = world.exports.get(export_id)
        if export is None or export.owner != owner or self._forgotten(export):
            return error(404)
        status = export.observe(world.clock.utc(), poll=True)
        answer = self._fields_of_both(export, status) | {
            "updated_at": _timestamp(export.updated_at),
            "_metadata": {"self": f"{self.url}{_PATH}/{export_id}", "count": 1},
        }
        if status == "ready":
            if export.contact_count is not None:
                answer["contact_count"] = export.contact_count
        elif export.polls % 2 == 0:
            # Without links, the field may be missing or empty: both are shown in turn.
            answer["urls"] = []
        if status == "failure" and export.message is not None:
            answer["message"] = export.message
        return json_answer(200, answer)

    def _list(self, owner: str, query: str) -> web.Response:
        now = self._world.clock.utc()
        exports = [e for e in self._world.exports.values() if e.owner == owner]
        shown = [export for export in exports if not self._forgotten(export)]
        size = self._world.settings.list_page_size or max(1, len(shown))
        page = int(parse_qs(query).get("page_token", ["0"])[0])
        metadata: dict[str, Any] = {"self": self._page(page), "count": len(shown)}
        if page:
            metadata["prev"] = self._page(page - 1)
        if (page + 1) * size < len(shown):
            metadata["next"] = self._page(page + 1)
        result = [
            self._fields_of_both(export, export.observe(now, poll=False))
            | {
                "user_id": "1234567",
                "export_type": _export_type(export),
                "segments": [{"ID": i, "Name": f"Segment {i[:8]}"} for i in export.segments],
                "lists": [{"ID": i, "Name": f"List {i[:8]}"} for i in export.lists],
            }
            for export in shown[page * size : (page + 1) * size]
        ]
        return json_answer(200, {"result": result, "_metadata": metadata})

    def _subusers(self, owner: str, query: str) -> web.Response:
        asked = {name: values[0] for name, values in parse_qs(query).items()}
        try:
            limit = min(int(asked.get("limit", _LARGEST_PAGE)), _LARGEST_PAGE)
            offset = int(asked.get("offset", 0))
        except ValueError:
            return error(400, "limit and offset must be integers")
        if limit < 1 or offset < 0:
            return error(400, "limit must be positive and offset must not be negative")
        region = asked.get("region", "all")
        answer = [
            {
                "disabled": subuser.disabled,
                "id": 1000 + number,
                "username": subuser.username,
                "email": f"subuser.{number}@example.com",
                **({"region": subuser.region} if asked.get("include_region") == "true" else {}),
            }
            for number, subuser in enumerate(() if owner else self._world.subusers.values())
            if asked.get("username", subuser.username) == subuser.username
            and region in {"all", subuser.region}
        ]
        return json_answer(200, answer[offset : offset + limit])

    def _page(self, page: int) -> str:
        return f"{self.url}{_PATH}" + (f"?page_token={page}" if page else "")

    def _forgotten(self, export: Export) -> bool:
        world = self._world
        return world.settings.after_expiry == "not_found" and world.expired(export)

    def _fields_of_both(self, export: Export, status: str) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "id": export.id,
            "status": status,
            "created_at": _timestamp(export.created_at),
            "expires_at": _timestamp(export.expires_at),
        }
        if export.completed_at is not None:
            fields["completed_at"] = _timestamp(export.completed_at)
        if status == "ready":
            world = self._world
            without = world.expired(export) and world.settings.after_expiry == "no_urls"
            links = [] if without else world.links(export)
            fields["urls"] = [world.storage_url + link for link in links]
        return fields


def body_of(status: int | None, body: str | bytes | Mapping[str, Any] | None) -> tuple[bytes, str]:
    """Return the bytes and the content type of a scripted answer; None is the documented one."""
    if isinstance(body, Mapping):
        return json.dumps(body).encode(), "application/json"
    if body is None:
        if status is None or status < 400:
            return b"", "application/json"
        documented = error(status)
        assert isinstance(documented.body, bytes)
        return documented.body, documented.content_type
    raw = body.encode() if isinstance(body, str) else body
    return raw, "text/html" if raw.lstrip().startswith(b"<") else "application/json"


def error(status: int, message: str | None = None, field: str | None = None) -> web.Response:
    """Return SendGrid's documented answer for an error status; from its proxies, HTML."""
    if status in {502, 503, 504}:
        page = f"<html><head><title>{status}</title></head><body>nginx</body></html>"
        return web.Response(status=status, body=page.encode(), content_type="text/html")
    text = _TEXTS.get(status, "internal error") if message is None else message
    described: dict[str, Any] = {"message": text}
    if field is not None or status in {401, 403, 404, 429}:
        described["field"] = field
    if status in {401, 403}:
        described["help"] = None
    return json_answer(status, {"errors": [described]})


def json_answer(status: int, answer: object) -> web.Response:
    """Return `answer` as JSON."""
    return web.Response(
        status=status, body=json.dumps(answer).encode(), content_type="application/json"
    )


def _route(method: str, path: str) -> tuple[Call | None, str, int]:
    """Return which call it is and the export id; without a call, the status that says why."""
    calls: dict[str, Call] = {}
    export_id = ""
    if path == _PATH:
        calls = {"POST": "start", "GET": "list"}
    elif path in {_SUBUSERS, _SCOPES}:
        calls = {"GET": "subusers" if path == _SUBUSERS else "scopes"}
    elif path.startswith(_PATH + "/") and "/" not in (rest := path[len(_PATH) + 1 :]):
        calls, export_id = {"GET": "status"}, unquote(rest)
    return calls.get(method), export_id, 405 if calls else 404


def _timestamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _export_type(export: Export) -> str:
    if export.lists:
        return "list_export"
    return "segment_export" if export.segments else "contacts_export"


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_FIELDS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "list_ids": (_is_texts, "list_ids must be an array of strings"),
    "segment_ids": (_is_texts, "segment_ids must be an array of strings"),
    "notifications": (
        lambda value: isinstance(value, dict) and isinstance(value.get("email", False), bool),
        "notifications must be an object with a boolean email",
    ),
    "file_type": (lambda value: value in ("csv", "json"), "file_type must be csv or json"),
    "max_file_size": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
        "max_file_size must be a positive integer",
    ),
}
