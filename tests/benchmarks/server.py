"""The other side: nginx with TLS as the storage, and a status call that names its links."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs

from tests.benchmarks.data import Data, md5
from tests.benchmarks.programs import require_program

__all__ = ["Storage", "serve", "serve_status"]

_HEADERS_MORE = Path("/usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so")
_CONFIG = """
{modules}
daemon off;
worker_processes auto;
pid {root}/pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    {etags}
    server {{
        listen {address}:{port};
        listen {address}:{tls_port} ssl;
        ssl_certificate {root}/certificate;
        ssl_certificate_key {root}/key;
        location / {{ root {files}; }}
        location /limited/ {{ alias {files}/; limit_rate 20m; output_buffers 2 256k; }}
    }}
}}
"""
_ETAGS = """
    # As S3 does for an object sent in one part: the ETag is the MD5.
    etag off;
    more_clear_input_headers If-Match;
    map_hash_max_size 16384;
    map_hash_bucket_size 128;
    map $uri $md5 {{
        {md5s}
    }}
    add_header ETag $md5;
"""


@attrs.frozen(kw_only=True)
class Storage:
    """A running nginx.

    Attributes:
        certificate: of the authority to trust.
        md5_etags: whether ETags are MD5s, as those of S3 are.
    """

    certificate: Path
    md5_etags: bool
    _address: str
    _port: int
    _tls_port: int

    def links(self, names: Sequence[str], *, tls: bool, limited: bool) -> list[str]:
        """Return links to files; a limited one sends 20 MB/s to each connection."""
        origin = (
            f"https://{self._address}:{self._tls_port}"
            if tls
            else f"http://{self._address}:{self._port}"
        )
        return [f"{origin}{'/limited' if limited else ''}/{name}" for name in names]


@contextmanager
def serve(
    root: Path, data: Data, *, address: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[Storage]:
    """Run nginx in `root` over the files of `data`; `prefix` stands before its command."""
    nginx, openssl = require_program("nginx"), require_program("openssl")
    root.mkdir()
    _certify(openssl, root, address)
    storage = Storage(
        certificate=root / "certificate",
        md5_etags=_HEADERS_MORE.exists(),
        address=address,
        port=_free_port(),
        tls_port=_free_port(),
    )
    etags = modules = ""
    if storage.md5_etags:
        modules = f"load_module {_HEADERS_MORE};"
        etags = _ETAGS.format(md5s="\n".join(_map_md5s(data)))
    config = root / "nginx.conf"
    config.write_text(
        ("user root;\n" if os.geteuid() == 0 else "")
        + _CONFIG.format(
            modules=modules,
            root=root,
            etags=etags,
            address=address,
            port=storage._port,
            tls_port=storage._tls_port,
            files=data.directory,
        )
    )
    process = subprocess.Popen([*prefix, nginx, "-e", "stderr", "-p", root, "-c", config])
    try:
        _wait_for(address, storage._tls_port, process)
        yield storage
    finally:
        process.terminate()
        process.wait(10)


def _map_md5s(data: Data) -> Iterator[str]:
    for name in itertools.chain.from_iterable(data.groups.values()):
        if (path := data.directory / name).exists():
            for folder in ("", "/limited"):
                yield f"{folder}/{name} '\"{md5(path)}\"';"


def _certify(openssl: str, root: Path, address: str) -> None:
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=storage"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", f"subjectAltName=IP:{address}"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-keyout", root / "key", "-out", root / "certificate"),
        ],
        check=True,
        capture_output=True,
    )


def _wait_for(address: str, port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        if process.poll() is not None:
            raise SystemExit("nginx did not start")
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((address, port)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit("nginx does not listen")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serve_status(exports: dict[str, Sequence[str]]) -> Iterator[str]:
    """Answer the status call for `exports`, an id to its links, from a thread; yield its url.

    The process that measures is idle meanwhile, so a thread of it can answer.
    """

    class Status(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            export_id = self.path.rpartition("/")[2]
            now = datetime.now(UTC)
            body = json.dumps(
                {
                    "id": export_id,
                    "status": "ready",
                    "created_at": now.isoformat(),
                    "updated_at": now.isoformat(),
                    "expires_at": (now + timedelta(hours=12)).isoformat(),
                    "urls": list(exports[export_id]),
                }
            ).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Status)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
