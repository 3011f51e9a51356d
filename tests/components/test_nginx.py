"""nginx as the storage host: its ETags, ranges and conditions, its TLS, and its limits."""

from __future__ import annotations

import os
import random
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from sendgrid_exports import (
    DownloadError,
    DownloadPolicy,
    DownloadResult,
    Event,
    Retrying,
)
from tests.components.conftest import (
    EXPORT_ID,
    MIB,
    Line,
    MakeClient,
    MakeStatus,
    end,
    free_port,
)

NGINX = shutil.which(
    "nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
)
OPENSSL = shutil.which("openssl")
if NGINX is None or OPENSSL is None:
    pytest.skip(
        "nginx or openssl is not installed: apt-get install nginx openssl", allow_module_level=True
    )

IN_TURN = DownloadPolicy(connections=1, piece_size=MIB)
PARALLEL = DownloadPolicy(piece_size=MIB)
CONFIG = """
daemon off;
master_process off;
pid {root}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    # Whoever accepts gzip gets it, with another length and a weak ETag.
    gzip on;
    gzip_static off;
    gzip_types *;
    limit_conn_zone $server_port zone=connections:1m;
    limit_req_zone $server_port zone=requests:1m rate=10r/s;
    server {{
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {root}/certificate;
        ssl_certificate_key {root}/key;
        location / {{ root {files}; }}
        location /two-connections/ {{
            alias {files}/;
            limit_conn connections 2;
            limit_rate 8m;
        }}
        location /few-requests/ {{
            alias {files}/;
            limit_req zone=requests burst=2 nodelay;
        }}
        location /slow/ {{ alias {files}/; limit_rate 4m; }}
        location /no-ranges/ {{ alias {files}/; max_ranges 0; }}
        location /no-etag/ {{ alias {files}/; etag off; }}
    }}
}}
"""


class Nginx:
    """An nginx with a directory of files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.files.mkdir()
        self.port, self.tls_port = free_port(), free_port()
        self._certify()
        config = CONFIG.format(root=root, files=self.files, port=self.port, tls_port=self.tls_port)
        (root / "nginx.conf").write_text(config)

    def _certify(self) -> None:
        assert OPENSSL
        subprocess.run(
            [
                *(OPENSSL, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=storage"),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-addext", "subjectAltName=IP:127.0.0.1"),
                *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
                *("-keyout", self.root / "key", "-out", self.root / "certificate"),
            ],
            check=True,
            capture_output=True,
        )

    def start(self) -> None:
        assert NGINX
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [NGINX, "-e", "stderr", "-p", self.root, "-c", self.root / "nginx.conf"],
                stderr=log,
                start_new_session=True,
            )
        started = time.monotonic()
        while self._process.poll() is None and time.monotonic() - started < 10:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        pytest.fail(f"nginx does not start: {(self.root / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        end(self._process)

    def put(self, body: bytes, name: str = "file.csv") -> str:
        """Put a file there, by a rename as deployments do it, and return its name."""
        part = self.files / "part"
        part.write_bytes(body)
        # The ETag is made of the size and of the second of the last change.
        changed = time.time() - random.Random(body[:64]).randrange(1, 10**8)
        os.utime(part, (changed, changed))
        part.rename(self.files / name)
        return name

    def link(self, name: str, place: str = "", *, tls: bool = False) -> str:
        scheme, port = ("https", self.tls_port) if tls else ("http", self.port)
        return f"{scheme}://127.0.0.1:{port}/{place}{name}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    nginx = Nginx(tmp_path_factory.mktemp("nginx"))
    nginx.start()
    yield nginx
    nginx.stop()


@pytest.fixture
def nginx(running: Nginx) -> Iterator[Nginx]:
    yield running
    for file in running.files.iterdir():
        file.unlink()


def noise(size: int, seed: int = 0) -> bytes:
    return (b"EMAIL\n" + random.Random(seed).randbytes(size))[:size]


def content(result: DownloadResult) -> bytes:
    [file] = result.files
    return file.path.read_bytes()


async def test_static_files_come_in_ranges_of_one_version(
    nginx: Nginx, make_status: MakeStatus, make_client: MakeClient, line: Line, tmp_path: Path
) -> None:
    body = noise(20 * MIB)
    link = nginx.link(nginx.put(body))
    status = await make_status(lambda: [link])
    result = await make_client(status.base_url, downloads=PARALLEL).fetch(EXPORT_ID, tmp_path)
    assert content(result) == body
    assert result.files[0].verified_by == ("length",)
    assert line.statuses == [206] * 20
    assert 1 < line.connections <= 8


async def test_nobody_is_asked_to_compress(
    nginx: Nginx, make_status: MakeStatus, make_client: MakeClient, line: Line, tmp_path: Path
) -> None:
    body = b"EMAIL,CONTACT_ID\n" + b"a@example.com,1\n" * 100_000
    link = nginx.link(nginx.put(body))
    status = await make_status(lambda: [link])
    result = await make_client(status.base_url, downloads=IN_TURN).fetch(EXPORT_ID, tmp_path)
    assert content(result) == body
    assert result.contact_count == 100_000
    assert line.statuses == [206, 206]


async def test_an_empty_file_is_an_empty_file(
    nginx: Nginx, make_status: MakeStatus, make_client: MakeClient, tmp_path: Path
) -> None:
    link = nginx.link(nginx.put(b""))
    status = await make_status(lambda: [link])
    assert content(await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)) == b""


@pytest.mark.parametrize("size", [6 * MIB, 5 * MIB + 1, MIB, 0])
async def test_a_file_replaced_between_two_ranges_is_never_mixed(
    nginx: Nginx,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
    size: int,
) -> None:
    new = noise(size, seed=1)
    link = nginx.link(nginx.put(noise(6 * MIB)))
    line.before[3] = lambda: nginx.put(new)
    status = await make_status(lambda: [link])
    result = await make_client(status.base_url, downloads=IN_TURN).fetch(EXPORT_ID, tmp_path)
    assert content(result) == new
    assert line.statuses[:3] == [206, 206, 412]


@pytest.mark.parametrize("place", ["no-ranges/", "no-etag/"])
async def test_without_ranges_or_etags_it_is_one_stream(
    nginx: Nginx,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
    place: str,
) -> None:
    body = noise(20 * MIB)
    link = nginx.link(nginx.put(body), place)
    status = await make_status(lambda: [link])
    result = await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    assert content(result) == body
    assert line.statuses[-1] == 200
    assert len(line.statuses) <= 2


async def test_a_restart_between_two_ranges_costs_one_more_try(
    nginx: Nginx,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
) -> None:
    body = noise(6 * MIB)
    link = nginx.link(nginx.put(body))

    def restart() -> None:
        nginx.stop()
        nginx.start()

    line.before[3] = restart
    status = await make_status(lambda: [link])
    result = await make_client(status.base_url, downloads=IN_TURN).fetch(EXPORT_ID, tmp_path)
    assert content(result) == body
    assert len(line.ranges) <= 7


async def test_a_host_that_is_away_for_a_while_is_asked_again(
    nginx: Nginx,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
    events: list[Event],
) -> None:
    body = noise(6 * MIB)
    link = nginx.link(nginx.put(body))
    line.before = {3: nginx.stop, 5: nginx.start}
    status = await make_status(lambda: [link])
    client = make_client(status.base_url, downloads=IN_TURN)
    result = await client.fetch(EXPORT_ID, tmp_path, on_event=events.append)
    assert content(result) == body
    assert len([event for event in events if isinstance(event, Retrying)]) == 2


@pytest.fixture
async def trusting(nginx: Nginx, closing: AsyncExitStack) -> Line:
    """A line whose session trusts nginx's certificate, and no other."""
    context = ssl.create_default_context(cafile=str(nginx.root / "certificate"))
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    line = await Line().open(aiohttp.TCPConnector(ssl=context))
    closing.push_async_callback(line.session.close)
    return line


async def test_a_lent_session_decides_whose_certificates_count(
    nginx: Nginx,
    make_status: MakeStatus,
    make_client: MakeClient,
    trusting: Line,
    tmp_path: Path,
) -> None:
    body = noise(20 * MIB)
    link = nginx.link(nginx.put(body), tls=True)
    status = await make_status(lambda: [link])
    client = make_client(status.base_url, session=trusting.session, downloads=PARALLEL)
    assert content(await client.fetch(EXPORT_ID, tmp_path)) == body
    assert trusting.statuses == [206] * 20
    assert trusting.connections > 1


async def test_a_certificate_that_nobody_trusts_ends_it_at_once(
    nginx: Nginx, make_status: MakeStatus, make_client: MakeClient, line: Line, tmp_path: Path
) -> None:
    link = nginx.link(nginx.put(b"secret"), tls=True)
    status = await make_status(lambda: [link])
    with pytest.raises(DownloadError, match="certificate"):
        await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    assert len(line.ranges) == 1
    assert not list(tmp_path.glob("*.csv*"))


async def test_a_limit_of_connections_lowers_the_pace(
    nginx: Nginx,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
) -> None:
    body = noise(24 * MIB)
    link = nginx.link(nginx.put(body), "two-connections/")
    status = await make_status(lambda: [link])
    result = await make_client(status.base_url, downloads=PARALLEL).fetch(EXPORT_ID, tmp_path)
    assert content(result) == body
    assert set(line.statuses) == {206, 503}
    assert line.statuses.count(206) == 24
    assert line.statuses.count(503) <= 24


async def test_a_limit_of_requests_is_waited_out(
    nginx: Nginx,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
) -> None:
    body = noise(12 * MIB)
    link = nginx.link(nginx.put(body), "few-requests/")
    status = await make_status(lambda: [link])
    result = await make_client(status.base_url, downloads=PARALLEL).fetch(EXPORT_ID, tmp_path)
    assert content(result) == body
    assert set(line.statuses) == {206, 503}
    assert line.statuses.count(206) == 12
    assert line.statuses.count(503) <= 24


async def test_a_limit_of_each_connections_rate_is_met_by_several(
    nginx: Nginx, make_status: MakeStatus, make_client: MakeClient, line: Line, tmp_path: Path
) -> None:
    body = noise(16 * MIB)
    link = nginx.link(nginx.put(body), "slow/")
    status = await make_status(lambda: [link])
    started = time.monotonic()
    result = await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    assert content(result) == body
    assert time.monotonic() - started < 0.75 * 16 / 4
    assert line.connections > 1
    assert set(line.statuses) == {206}
