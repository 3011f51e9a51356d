"""`FakeSendGrid.in_thread`: the service in a thread of its own, for synchronous code."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sendgrid_exports.testing.server import Credentials, FakeSendGrid
from sendgrid_exports.testing.world import RecordedRequest

__all__ = ["ThreadedFakeSendGrid", "run_in_thread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _waiting(
    method: Callable[Concatenate[FakeSendGrid, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[ThreadedFakeSendGrid, _P], _T]:
    """Return a method that runs `method` in the service's event loop and waits for its result."""

    @functools.wraps(method)
    def call(self: ThreadedFakeSendGrid, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        call = method(self._fake, *args, **kwargs)
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    return call


def _hopping(
    method: Callable[Concatenate[FakeSendGrid, _P], _T],
) -> Callable[Concatenate[ThreadedFakeSendGrid, _P], _T]:
    """Do the same for a method that is not async, so that only one thread touches the service."""

    async def run(fake: FakeSendGrid, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return method(fake, *args, **kwargs)

    return functools.wraps(method)(_waiting(run))


class ThreadedFakeSendGrid:
    """A `FakeSendGrid` in a thread of its own, with the same methods, all of them synchronous.

    Each runs in the event loop of the service and returns when it is done, so they can be called
    from any thread.
    """

    add_export = _waiting(FakeSendGrid.add_export)
    file_bytes = _waiting(FakeSendGrid.file_bytes)
    replace_file = _waiting(FakeSendGrid.replace_file)
    contacts_of = _hopping(FakeSendGrid.contacts_of)
    rows_of = _hopping(FakeSendGrid.rows_of)
    links = _hopping(FakeSendGrid.links)
    etags = _hopping(FakeSendGrid.etags)
    file_path = _hopping(FakeSendGrid.file_path)
    remove_files = _hopping(FakeSendGrid.remove_files)
    expire_links = _hopping(FakeSendGrid.expire_links)
    respond = _hopping(FakeSendGrid.respond)
    inject = _hopping(FakeSendGrid.inject)
    clear_faults = _hopping(FakeSendGrid.clear_faults)

    def __init__(self, fake: FakeSendGrid, loop: asyncio.AbstractEventLoop) -> None:
        self._fake = fake
        self._loop = loop

    @property
    def base_url(self) -> str:
        """Where the API listens."""
        return self._fake.base_url

    @property
    def eu_base_url(self) -> str:
        """Where the API of the region "eu" listens."""
        return self._fake.eu_base_url

    @property
    def storage_url(self) -> str:
        """Where the storage host listens."""
        return self._fake.storage_url

    @property
    def api_key(self) -> str:
        """The key of the account."""
        return self._fake.api_key

    @property
    def credentials(self) -> Credentials:
        """The `api_key` and `base_url` of a client for this service, to be unpacked."""
        return self._fake.credentials

    @property
    def directory(self) -> Path:
        """The temporary directory of the files, removed at the end."""
        return self._fake.directory

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request so far, oldest first, as it stands now."""
        return self._fake.requests

    @property
    def api_requests(self) -> list[RecordedRequest]:
        """The requests to the API."""
        return self._fake.api_requests

    @property
    def storage_requests(self) -> list[RecordedRequest]:
        """The requests to the storage host."""
        return self._fake.storage_requests


@contextmanager
def run_in_thread(fake: FakeSendGrid) -> Iterator[ThreadedFakeSendGrid]:
    """Run `fake` in a thread until the block ends."""
    running: Future[asyncio.AbstractEventLoop] = Future()
    with ThreadPoolExecutor(1, thread_name_prefix="fake-sendgrid-loop") as thread:
        thread.submit(_run_loop, running)
        loop = running.result()
        try:
            asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result()
            try:
                yield ThreadedFakeSendGrid(fake, loop)
            finally:
                asyncio.run_coroutine_threadsafe(fake.__aexit__(None, None, None), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)


def _run_loop(running: Future[asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        loop.call_soon(running.set_result, loop)
        loop.run_forever()
