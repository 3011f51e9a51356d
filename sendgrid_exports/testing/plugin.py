"""The pytest plugin: the fixture `fake_sendgrid`, there once the package is installed.

pytest loads this module at every start, so only the fixture imports the server. With
pytest-asyncio installed the fixture runs in its loop, in either mode; without it, in the loop of
another plugin that runs async fixtures, such as anyio's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sendgrid_exports.testing import FakeSendGrid

try:
    import pytest_asyncio

    _fixture: Callable[..., Any] = pytest_asyncio.fixture
except ImportError:  # pragma: no cover
    _fixture = pytest.fixture

__all__ = ["fake_sendgrid"]


@_fixture
async def fake_sendgrid(request: pytest.FixtureRequest) -> AsyncIterator[FakeSendGrid]:
    """Yield a running `FakeSendGrid`; its arguments come from `@pytest.mark.fake_sendgrid(...)`."""
    from sendgrid_exports.testing import FakeSendGrid

    marker = request.node.get_closest_marker("fake_sendgrid")
    options: dict[str, Any] = marker.kwargs if marker else {}
    async with FakeSendGrid(**options) as fake:
        yield fake


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "fake_sendgrid(**options): the arguments of the fixture's FakeSendGrid"
    )
