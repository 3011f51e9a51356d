"""Airflow's connection type `sendgrid`, and clients that the triggers of one process share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypedDict
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import BaseHook

from sendgrid_exports import (
    AuthenticationError,
    ExportClient,
    ExportFailedError,
    InvalidRequestError,
    PermissionDeniedError,
    SendGridExportsError,
    TransportError,
)
from sendgrid_exports.integrations.airflow_provider import get_provider_info
from sendgrid_exports.session import open_shared_session

__all__ = ["ERRORS", "ClientArguments", "SendGridHook", "is_final", "shared_client"]

ERRORS = (SendGridExportsError, TypeError, ValueError)
"""What a call of the client raises: its own errors, and those of unusable settings."""

_FINAL = (
    *(AuthenticationError, ExportFailedError, InvalidRequestError, PermissionDeniedError),
    *(TypeError, ValueError),
)
_SHARED_CONNECTIONS = 32


class ClientArguments(TypedDict):
    """The arguments of `ExportClient` that a connection holds."""

    api_key: str
    base_url: str
    on_behalf_of: str | None


class SendGridHook(BaseHook):
    """The connection type `sendgrid`: the API key is the password, the host that of the region.

    Args:
        sendgrid_conn_id: the connection.
        on_behalf_of: the subuser to act for; by default `on_behalf_of` of the connection's extra.
    """

    conn_name_attr = "sendgrid_conn_id"
    default_conn_name = "sendgrid_default"
    conn_type = "sendgrid"
    hook_name = "SendGrid"

    def __init__(
        self,
        sendgrid_conn_id: str = default_conn_name,
        on_behalf_of: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sendgrid_conn_id = sendgrid_conn_id
        self.on_behalf_of = on_behalf_of

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return how the form of a connection looks; Airflow 3.2 reads it from the provider."""
        behaviour = get_provider_info()["connection-types"][0]["ui-field-behaviour"]
        return {name.replace("-", "_"): value for name, value in behaviour.items()}

    def get_conn(self) -> ExportClient:
        """Return a client for the connection: use it with `async with`, or close it."""
        return ExportClient(**self.get_arguments())

    def get_arguments(self) -> ClientArguments:
        """Return what the connection says to `ExportClient`.

        Raises:
            ValueError: the connection has no API key, or its extra is not a JSON object.
        """
        return _arguments(self.get_connection(self.sendgrid_conn_id), self.on_behalf_of)

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the API key may export contacts, and a sentence about it."""

        async def scopes(client: ExportClient) -> Sequence[str]:
            async with client:
                return await client.scopes()

        try:
            granted = asyncio.run(scopes(self.get_conn()))
        except ERRORS as error:
            return False, str(error)
        if "marketing.read" not in granted:
            return False, (
                "SendGrid accepts the API key, but it lacks the scope marketing.read, which "
                "exports need: give it that permission, or use another key."
            )
        return True, "SendGrid accepts the API key, and it may export contacts."


class _Shared:
    """The clients of one event loop: they share connections, and are closed with the last user."""

    def __init__(self) -> None:
        self.session = open_shared_session(_SHARED_CONNECTIONS)
        self.clients: dict[tuple[str, str], ExportClient] = {}
        self.users = 0


_SHARED: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()


@asynccontextmanager
async def shared_client(connection: Any, on_behalf_of: str | None) -> AsyncIterator[ExportClient]:
    """Lend the client of this event loop for a connection, or one for its subuser.

    Raises:
        TypeError, ValueError: the connection can't be used.
    """
    arguments = _arguments(connection, on_behalf_of)
    loop = asyncio.get_running_loop()
    if loop not in _SHARED:
        _SHARED[loop] = _Shared()
    shared = _SHARED[loop]
    shared.users += 1
    try:
        # SendGrid limits the requests of a key, whoever they are for: one client paces them.
        key = (arguments["api_key"], arguments["base_url"])
        if key not in shared.clients:
            shared.clients[key] = ExportClient(key[0], base_url=key[1], session=shared.session)
        client, subuser = shared.clients[key], arguments["on_behalf_of"]
        yield client.for_subuser(subuser) if subuser else client
    finally:
        shared.users -= 1
        if not shared.users:
            del _SHARED[loop]
            for client in shared.clients.values():
                await client.close()
            await shared.session.close()


def _arguments(connection: Any, on_behalf_of: str | None) -> ClientArguments:
    """Return what a connection says to a client.

    Raises:
        ValueError: it has no API key, or its extra is not a JSON object.
    """
    if not connection.password:
        raise ValueError(
            f"The connection {connection.conn_id} has no API key: put it into the password."
        )
    try:
        subuser = json.loads(connection.extra or "{}").get("on_behalf_of")
    except (AttributeError, ValueError):
        raise ValueError(
            f"The extra of the connection {connection.conn_id} is not a JSON object: write {{}}, "
            'or {"on_behalf_of": "the name of a subuser"}.'
        ) from None
    base_url = connection.host or "https://api.sendgrid.com"
    if "://" not in base_url:
        base_url = f"https://{base_url}"
    if connection.port:
        base_url = f"{base_url}:{connection.port}"
    return {
        "api_key": connection.password,
        "base_url": base_url,
        "on_behalf_of": on_behalf_of or subuser,
    }


def is_final(error: Exception) -> bool:
    """Return whether another try can't succeed without a change of the key or the arguments."""
    if isinstance(error, TransportError):
        return not error.transient
    return isinstance(error, _FINAL)
