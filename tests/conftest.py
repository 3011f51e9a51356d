"""What every test has: a loop that nothing may block, and no way to the network."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx

# A shell that starts the tests in the background has SIGINT ignored, and every command that a test
# interrupts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test in which the package, or a test, blocks the event loop."""
    with blockbuster_ctx("sendgrid_exports") as watching:
        if "coverage" in sys.modules:
            # It takes a lock of its own in the middle of whatever it measures.
            watching.functions["threading.Lock.acquire"].deactivate()
        yield watching


def pytest_make_parametrize_id(val: object) -> str | None:
    """Name gzip by its kind: its bytes hold the time, and workers must agree on names."""
    return "gzip" if isinstance(val, bytes) and val.startswith(b"\x1f\x8b") else None
