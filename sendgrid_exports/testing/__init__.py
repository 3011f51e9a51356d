"""A SendGrid to program against: a real service on the loopback interface, and a fake clock.

`FakeSendGrid` speaks real HTTP on real sockets, so whatever talks to it needs no mocks. It can
be told to misbehave in every way the real service and the network between are known for.
"""

from __future__ import annotations

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
    Trickle,
    TruncatedChunks,
    WrongContentRange,
    WrongETag,
)
from sendgrid_exports.testing.server import FakeSendGrid
from sendgrid_exports.testing.world import RecordedRequest

__all__ = [
    "ContentDisposition",
    "Delay",
    "EarlyEnd",
    "EndlessBody",
    "ExpiredLink",
    "FakeClock",
    "FakeSendGrid",
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
    "Trickle",
    "TruncatedChunks",
    "WrongContentRange",
    "WrongETag",
    "make_contacts",
]
