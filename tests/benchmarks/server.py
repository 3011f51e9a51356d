"""The other side: nginx with TLS as the storage, and a status call that names its links."""

from __future__ import annotations

import json
import os
import shutil
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

__all__ = ["Storage", "find_program", "serve", "serve_status"]

_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
_CLEAR_IF_MATCH = Path("/usr/lib/nginx/modules/ngx_http_headers_more_filter_module.so")
_CONFIG = """
{modules}
daemon off;
worker_processes auto;
pid {root}/pid;
error_log stderr;
events {{ worker_connections 1024; }}
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
        listen 127.0.0.1:{port};
        listen 127.0.0.1:{tls_port} ssl;
        ssl_certificate {root}/certificate;
        ssl_certificate_key {root}/key;
        location / {{ root {files}; }}
        location /limited/ {{ alias {files}/; limit_rate 20m; }}
    }}
}}
"""
_ETAGS = """
    # As S3 does for an object sent in one part: the ETag is the MD5.
    etag off;
    more_clear_input_headers If-Match;
    map $uri $md5 {{
        {md5s}
    }}
    add_header ETag $md5;
"""


def find_program(name: str) -> str | None:
    """Return where a program is."""
    return shutil.which(name, path=_PATH)


@attrs.frozen(kw_only=True)
class Storage:
    """A running nginx.

    Attributes:
        certificate: of the authority to be trusted.
        md5_etags: whether ETags are MD5s, as those of S3 are.
    """

    certificate: Path
    md5_etags: bool
    _port: int
    _tls_port: int

    def links(self, names: Sequence[str], line: str) -> list[str]:
        """Return links to files over the line `tls`, `plain` or `limited`."""
        scheme, port = ("http", self._port) if line == "plain" else ("https", self._tls_port)
        folder = "/limited" if line == "limited" else ""
        return [f"{scheme}://127.0.0.1:{port}{folder}/{name}" for name in names]


@contextmanager
def serve(root: Path, data: Data) -> Iterator[Storage]:
    """Run nginx in `root` over the files of `data`."""
    nginx, openssl = find_program("nginx"), find_program("openssl")
    assert nginx, "nothing can be measured without nginx: install it"
    assert openssl, "nothing can be measured without openssl: install it"
    root.mkdir()
    _certify(openssl, root)
    port, tls_port = _free_port(), _free_port()
    storage = Storage(
        certificate=root / "certificate",
        md5_etags=_CLEAR_IF_MATCH.exists(),
        port=port,
        tls_port=tls_port,
    )
    etags = modules = ""
    if storage.md5_etags:
        modules = f"load_module {_CLEAR_IF_MATCH};"
        etags = _ETAGS.format(
            md5s="\n".join(f"~/{name}$ '\"{md5(data.directory / name)}\"';" for name in data.names)
        )
    config = root / "nginx.conf"
    config.write_text(
        _CONFIG.format(
            modules=modules,
            root=root,
            etags=etags,
            port=port,
            tls_port=tls_port,
            files=data.directory,
        )
    )
    if os.geteuid() == 0:
        config.write_text("user root;\n" + config.read_text())
    process = subprocess.Popen([nginx, "-e", "stderr", "-p", root, "-c", config])
    try:
        _wait_for(tls_port, process)
        yield storage
    finally:
        process.terminate()
        process.wait(10)


def _certify(openssl: str, root: Path) -> None:
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=storage"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-keyout", root / "key", "-out", root / "certificate"),
        ],
        check=True,
        capture_output=True,
    )


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(500):
        assert process.poll() is None, "nginx did not start"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError("nginx does not listen")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def serve_status(exports: dict[str, Sequence[str]]) -> Iterator[str]:
    """Answer the status call for `exports`, an id to its links, from a thread; yield its url.

    The process that measures does nothing else meanwhile, so it answers from there.
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
