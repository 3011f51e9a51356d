"""A service to talk to, a clock that nobody waits for, and a client that uses both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import pytest

from sendgrid_exports import Event, ExportClient
from sendgrid_exports.testing import FakeClock, FakeSendGrid

MakeFake: TypeAlias = "Callable[..., Any]"
MakeClient: TypeAlias = "Callable[..., ExportClient]"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def make_fake(closing: AsyncExitStack, clock: FakeClock) -> MakeFake:
    """Return a function that starts a service; it is stopped after the test."""

    async def make(**options: Any) -> FakeSendGrid:
        return await closing.enter_async_context(FakeSendGrid(**{"clock": clock, **options}))

    return make


@pytest.fixture
def make_client(closing: AsyncExitStack, clock: FakeClock) -> MakeClient:
    """Return a function that makes a client of a service; it is closed after the test."""

    def make(fake: FakeSendGrid, **options: Any) -> ExportClient:
        arguments = {"base_url": fake.base_url, "clock": clock, "random": lambda: 0.0, **options}
        client = ExportClient(fake.api_key, **arguments)
        closing.push_async_callback(client.close)
        return client

    return make


@pytest.fixture
def many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every client begin with as many connections as its setting allows."""
    monkeypatch.setattr("sendgrid_exports.transfer.plan.FEW", 1000)


@pytest.fixture
def events() -> list[Event]:
    """What was told: pass its `append` as `on_event`."""
    return []
