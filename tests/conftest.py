"""What every test has: a loop that nothing may block, and no way to the network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import BlockBuster, blockbuster_ctx


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fail a test in which the package, or a test, blocks the event loop."""
    with blockbuster_ctx("sendgrid_exports") as watching:
        yield watching
