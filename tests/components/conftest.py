"""Servers that nobody here wrote, and a status call whose links lead to them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer

from sendgrid_exports import Event, ExportClient

EXPORT_ID = "an-export"
MIB = 1024 * 1024

Links: TypeAlias = Callable[[], Sequence[str]]
MakeStatus: TypeAlias = "Callable[[Links], Awaitable[Status]]"
MakeClient: TypeAlias = "Callable[..., ExportClient]"


class Status:
    """The status call alone: every look gets the links that are made just then."""

    def __init__(self, links: Links) -> None:
        self.looks = 0
        self.base_url = ""
        self._links = links

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.looks += 1
        now = datetime.now(UTC)
        return web.json_response(
            {
                "id": EXPORT_ID,
                "status": "ready",
                "created_at": now.isoformat(),
                "updated_at": now.isoformat(),
                "expires_at": (now + timedelta(hours=12)).isoformat(),
                "urls": list(self._links()),
            }
        )


class Line:
    """A session to lend, and what goes over it to a storage host.

    Attributes:
        session: the session.
        ranges: the Range of each request for a file, in the order of the requests.
        statuses: the status of each answer to one, in the order of the answers.
        connections: how many connections were opened for files.
        before: what to do, in a thread, before the request of that number (from 1) goes out.
    """

    def __init__(self) -> None:
        self.ranges: list[str | None] = []
        self.statuses: list[int] = []
        self.connections = 0
        self.before: dict[int, Callable[[], object]] = {}

    async def open(self, connector: aiohttp.BaseConnector | None = None) -> Line:
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._starts)
        trace.on_request_end.append(self._ends)
        trace.on_connection_create_end.append(self._connects)
        self.session = aiohttp.ClientSession(connector=connector, trace_configs=[trace])
        return self

    async def _starts(
        self, session: aiohttp.ClientSession, context: Any, told: aiohttp.TraceRequestStartParams
    ) -> None:
        context.file = not told.url.path.startswith("/v3/")
        if context.file:
            self.ranges.append(told.headers.get("Range"))
            if action := self.before.get(len(self.ranges)):
                await asyncio.to_thread(action)

    async def _ends(
        self, session: aiohttp.ClientSession, context: Any, told: aiohttp.TraceRequestEndParams
    ) -> None:
        if context.file:
            self.statuses.append(told.response.status)

    async def _connects(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, told: object
    ) -> None:
        self.connections += context.file


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def make_status(closing: AsyncExitStack) -> MakeStatus:
    """Return a function that starts a status call; it is stopped after the test."""

    async def make(links: Links) -> Status:
        status = Status(links)
        server = RawTestServer(status.answer)
        await server.start_server()
        closing.push_async_callback(server.close)
        status.base_url = str(server.make_url("/")).rstrip("/")
        return status

    return make


@pytest.fixture
async def line(closing: AsyncExitStack) -> Line:
    line = await Line().open()
    closing.push_async_callback(line.session.close)
    return line


@pytest.fixture
def make_client(closing: AsyncExitStack, line: Line) -> MakeClient:
    """Return a function that makes a client over `line`; it is closed after the test."""

    def make(base_url: str, **options: Any) -> ExportClient:
        client = ExportClient(
            options.pop("api_key", "key"), base_url=base_url, **{"session": line.session, **options}
        )
        closing.push_async_callback(client.close)
        return client

    return make


def wait_until_durable(directory: Path, export_id: str) -> None:
    """Wait, in a thread, until the journal has a first entry below its head."""
    journal = directory / f"{export_id}.journal"
    for _ in range(3000):
        if journal.exists() and journal.read_bytes().count(b"\n") > 1:
            return
        time.sleep(0.01)
    pytest.fail("nothing becomes durable")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def end(process: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    """End a process that leads a group of its own, with all of the group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
        return


@pytest.fixture(scope="session")
def localstack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run LocalStack's S3, which checks signatures and expiry, and yield its url."""
    if importlib.util.find_spec("localstack") is None:
        pytest.skip("LocalStack is not installed: nox -s tests_s3")
    home = tmp_path_factory.mktemp("localstack")
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "FILESYSTEM_ROOT": str(home),
        "OVERRIDE_IN_DOCKER": "0",
        "GATEWAY_LISTEN": urlsplit(url).netloc,
        "SERVICES": "s3",
        "EAGER_SERVICE_LOADING": "1",
        "S3_SKIP_SIGNATURE_VALIDATION": "0",
        # It needs neither names nor certificates, and must not report that it runs.
        "DNS_ADDRESS": "0",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "DISABLE_EVENTS": "1",
    }
    log = home / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "localstack.runtime.main"],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until_healthy(process, url, log)
        yield url
    finally:
        end(process)


@contextmanager
def serve(command: list[str], port: int) -> Iterator[None]:
    """Run a server until the block ends; the block starts when its port accepts connections."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"{command[0]} does not start"
                time.sleep(0.1)
        yield
    finally:
        end(process)


def wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < 120:
        try:
            with urllib.request.urlopen(f"{url}/_localstack/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"LocalStack does not start: {log.read_text()[-2000:]}")


@contextmanager
def serve_moto() -> Iterator[str]:
    """Serve S3 with moto: any credentials are accepted."""
    port = free_port()
    with serve([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def events() -> list[Event]:
    """What was told: pass its `append` as `on_event`."""
    return []
