"""A SendGrid to program against: a real service on the loopback interface, and a fake clock.

`FakeSendGrid` speaks real HTTP on real sockets, so what talks to it needs no mocks. It can be made
to misbehave in every way the real service and the network in between are known for.
`FakeSendGrid.in_thread` serves synchronous code; `FakeSubuser` is for accounts with subusers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from sendgrid_exports.testing.accounts import FakeSubuser
from sendgrid_exports.testing.clock import FakeClock
from sendgrid_exports.testing.contacts import make_contacts
from sendgrid_exports.testing.faults import (
    ContentDisposition,
    Delay,
    EarlyEnd,
    EndlessBody,
    ExpiredLink,
    Fault,
    FlippedBit,
    IgnoreRange,
    LongerBody,
    NoLength,
    Page,
    Redirect,
    Reset,
    Slow,
    Stall,
    Status,
    TooManyAtOnce,
    Trickle,
    TruncatedChunks,
    WrongContentRange,
    WrongETag,
)

if TYPE_CHECKING:
    from sendgrid_exports.testing.server import FakeSendGrid
    from sendgrid_exports.testing.thread import ThreadedFakeSendGrid
    from sendgrid_exports.testing.world import RecordedRequest

__all__ = [
    "ContentDisposition",
    "Delay",
    "EarlyEnd",
    "EndlessBody",
    "ExpiredLink",
    "FakeClock",
    "FakeSendGrid",
    "FakeSubuser",
    "Fault",
    "FlippedBit",
    "IgnoreRange",
    "LongerBody",
    "NoLength",
    "Page",
    "RecordedRequest",
    "Redirect",
    "Reset",
    "Slow",
    "Stall",
    "Status",
    "ThreadedFakeSendGrid",
    "TooManyAtOnce",
    "Trickle",
    "TruncatedChunks",
    "WrongContentRange",
    "WrongETag",
    "make_contacts",
]

# These load aiohttp and more, at a cost to every start of pytest: the plugin is in this package.
_LATER = {"FakeSendGrid": "server", "RecordedRequest": "world", "ThreadedFakeSendGrid": "thread"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = value
    return value
