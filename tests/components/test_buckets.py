"""Downloads into S3 as moto and LocalStack serve it, and into Azure's storage as Azurite does."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import io
import json
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sendgrid_exports import (
    Bucket,
    DownloadError,
    DownloadInProgressError,
    DownloadResult,
    ExportClient,
    IncompleteDownloadError,
    fetch_export,
    verify_download,
)
from sendgrid_exports.bucket_files import BucketFile
from sendgrid_exports.testing import EarlyEnd, FakeSendGrid, FakeSubuser, FlippedBit, Stall
from sendgrid_exports.transfer.claim import CLAIMS
from tests.components.conftest import MIB, free_port, serve, serve_moto
from tests.integration.command import Command
from tests.integration.conftest import cancelled_at, check_claims, check_conditional_writes

obstore = pytest.importorskip("obstore.store", reason="obstore is not installed: the extra cloud")

ID = "an-export"
KEYS: dict[str, Any] = {
    "access_key_id": "test-key",
    "secret_access_key": "s3cr3t",
    "region": "us-east-1",
}
# Two parts, and a rest that goes with the last request.
BODY = b"EMAIL,CONTACT_ID\n" + b"".join(
    hashlib.sha256(n.to_bytes(8, "big")).hexdigest().encode() * 16 + b",%d\n" % n
    for n in range(11_000)
)
SMALL = b"EMAIL,CONTACT_ID\na@example.com,1\n"


class Service(Protocol):
    """A service with one bucket."""

    url: str

    def bucket(self, prefix: str) -> Bucket: ...

    def uploads(self) -> list[str]:
        """Return the keys of the unfinished uploads, as far as the service lists them."""
        ...


class S3:
    """S3, as moto or LocalStack serves it."""

    def __init__(self, url: str) -> None:
        import boto3

        self.url = url
        self._s3 = boto3.client(
            "s3",
            endpoint_url=url,
            region_name=KEYS["region"],
            aws_access_key_id=KEYS["access_key_id"],
            aws_secret_access_key=KEYS["secret_access_key"],
        )
        self._s3.create_bucket(Bucket="exports")
        self.environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": KEYS["access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["secret_access_key"],
            "AWS_REGION": KEYS["region"],
        }

    def bucket(self, prefix: str, *, url: str | None = None, name: str = "exports") -> Bucket:
        store = obstore.S3Store(
            name,
            endpoint=url or self.url,
            client_options={"allow_http": True},
            retry_config={"max_retries": 2},
            **KEYS,
        )
        return Bucket(store, prefix)

    def uploads(self) -> list[str]:
        listed = self._s3.list_multipart_uploads(Bucket="exports")
        return [upload["Key"] for upload in listed.get("Uploads", [])]

    def abort_all(self) -> None:
        for each in self._s3.list_multipart_uploads(Bucket="exports").get("Uploads", []):
            self._s3.abort_multipart_upload(
                Bucket="exports", Key=each["Key"], UploadId=each["UploadId"]
            )


class Azurite:
    """Azure's blob storage; it lists no unfinished uploads, and drops them by itself."""

    def __init__(self, url: str) -> None:
        from azure.storage.blob import BlobServiceClient

        self.url = url
        self._account = {
            "account_name": "devstoreaccount1",
            # Azurite's own, for everyone.
            "account_key": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/"
            "K1SZFPTOtr/KBHBeksoGMGw==",
        }
        service = BlobServiceClient(
            f"{url}/devstoreaccount1", credential=self._account["account_key"]
        )
        service.create_container("exports")

    def bucket(self, prefix: str) -> Bucket:
        store = obstore.AzureStore(
            "exports",
            endpoint=f"{self.url}/devstoreaccount1",
            client_options={"allow_http": True},
            **self._account,
        )
        return Bucket(store, prefix)

    def uploads(self) -> list[str]:
        return []


@pytest.fixture(scope="module")
def moto() -> Iterator[S3]:
    # LocalStack installs moto without what its server needs.
    if importlib.util.find_spec("flask_cors") is None:
        pytest.skip("moto is not installed: nox -s tests_buckets")
    with serve_moto() as url:
        yield S3(url)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite is not installed: nox -s tests_buckets")
    port = free_port()
    command = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    command += ["--skipApiVersionCheck", "--location", str(tmp_path_factory.mktemp("azurite"))]
    with serve(command, port):
        yield Azurite(f"http://127.0.0.1:{port}")


@pytest.fixture(scope="module", name="localstack-s3")
def localstack_s3(localstack: str) -> S3:
    return S3(localstack)


@pytest.fixture(params=["moto", "localstack-s3"])
def s3(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["moto", "localstack-s3", "azurite"])
def service(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


@pytest.fixture
def bucket(service: Service, request: pytest.FixtureRequest) -> Bucket:
    """Return a part of the bucket for one test."""
    return service.bucket(hashlib.sha256(request.node.name.encode()).hexdigest()[:8])


@pytest.fixture
async def fake() -> AsyncIterator[FakeSendGrid]:
    async with FakeSendGrid(link_lifetime=3600) as fake:
        await fake.add_export(export_id=ID, bodies=[BODY, SMALL])
        yield fake


@pytest.fixture
async def client(fake: FakeSendGrid) -> AsyncIterator[ExportClient]:
    async with ExportClient(**fake.credentials) as client:
        yield client


def names_of(bucket: Bucket) -> list[str]:
    return [each.name for each in bucket.list()[0]]


def entries(bucket: Bucket, export_id: str = ID) -> dict[str, Any]:
    """Return the files of the manifest by their names."""
    if (found := bucket.read(f"{export_id}.manifest.json")) is None:
        return {}
    return {entry["name"]: entry for entry in json.loads(found[0])["files"]}


def check_complete(bucket: Bucket) -> None:
    """See that what is there is right, and all of it."""
    assert names_of(bucket) == [f"{ID}-00001.csv", f"{ID}-00002.csv", f"{ID}.manifest.json"]
    for name, body in ((f"{ID}-00001.csv", BODY), (f"{ID}-00002.csv", SMALL)):
        found = bucket.read(name)
        assert found is not None
        assert found[0] == body


async def test_an_export_becomes_objects_that_verify(
    service: Service, bucket: Bucket, client: ExportClient, fake: FakeSendGrid
) -> None:
    result = await client.fetch(ID, bucket)
    check_complete(bucket)
    assert (result.contact_count, service.uploads()) == (11_001, [])
    asked = len(fake.requests)
    assert (await client.fetch(ID, bucket)).files == result.files
    assert len(fake.requests) == asked
    for deep in (False, True):
        report = await verify_download(bucket, ID, deep=deep)
        assert report.ok
        assert report.verified == tuple(file.url for file in result.files)


async def test_objects_are_created_and_replaced_on_condition(bucket: Bucket) -> None:
    check_conditional_writes(bucket)


async def test_claims_are_conditional(bucket: Bucket) -> None:
    await check_claims(bucket)


async def test_an_object_is_read_in_ranges_of_one_version(bucket: Bucket) -> None:
    data = bytes(range(256)) * 40_000
    stored = bucket.create("a", data)
    with BucketFile(bucket, stored).open("rb") as file:
        assert file.read(1000) == data[:1000]
        file.seek(5_000_000)
        assert file.read() == data[5_000_000:]
    with BucketFile(bucket, stored).open("rb") as file:
        file.read(1)
        bucket.update("a", data[::-1], stored)
        with pytest.raises(DownloadError, match="was replaced or deleted"):
            file.read()


@pytest.mark.parametrize("fault", [EarlyEnd(7 * MIB), FlippedBit(9 * MIB)], ids=repr)
async def test_after_a_fault_of_the_storage_the_right_bytes_are_there(
    service: Service,
    bucket: Bucket,
    client: ExportClient,
    fake: FakeSendGrid,
    fault: EarlyEnd | FlippedBit,
) -> None:
    fake.inject(fault, file=1)
    await client.fetch(ID, bucket)
    check_complete(bucket)
    assert service.uploads() == []


async def test_of_two_runs_at_once_none_makes_a_wrong_file(
    service: Service, bucket: Bucket, fake: FakeSendGrid
) -> None:
    ended = await asyncio.gather(
        *(fetch_export(ID, bucket, **fake.credentials) for _ in range(2)), return_exceptions=True
    )
    assert any(isinstance(one, DownloadResult) for one in ended)
    for one in ended:
        assert isinstance(one, DownloadResult | DownloadInProgressError), one
    check_complete(bucket)
    assert (await verify_download(bucket, ID, deep=True)).ok
    assert service.uploads() == []


@pytest.mark.parametrize("after", [0, MIB, 6 * MIB, 10 * MIB])
async def test_a_cancelled_download_leaves_no_object_and_no_upload(
    service: Service, bucket: Bucket, client: ExportClient, fake: FakeSendGrid, after: int
) -> None:
    fake.inject(Stall(after), file=1)
    fetching = asyncio.create_task(client.fetch(ID, bucket))
    while f"{ID}-00002.csv" not in await asyncio.to_thread(entries, bucket):
        assert not fetching.done()
        await asyncio.sleep(0.01)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert names_of(bucket) == [f"{ID}-00002.csv", f"{ID}.manifest.json"]
    assert service.uploads() == []


async def test_cancelled_at_any_await_it_leaves_no_upload_and_whole_objects_alone(
    s3: S3, fake: FakeSendGrid, client: ExportClient
) -> None:
    await fake.add_export(export_id="one", bodies=[BODY])
    export = await client.wait("one")
    for number in range(1, 10_000):
        bucket = s3.bucket(f"cancelled-{number}")
        download, started = await cancelled_at(number, client.download(export, bucket))
        assert started
        assert all(task.done() for task in started)
        assert s3.uploads() == []
        objects = {each.name: each.size for each in bucket.list()[0]}
        objects.pop("one.manifest.json", None)
        assert objects in ({}, {"one-00001.csv": len(BODY)})
        assert set(objects) == set(entries(bucket, "one"))
        if not download.cancelled():
            assert len(download.result().files) == 1
            break
    assert number > 30


CHILD = """
import asyncio, sys
from obstore.store import S3Store
from sendgrid_exports import Bucket, fetch_export
url, key, store, prefix = sys.argv[1:]
options = {"allow_http": True}
keys = {"access_key_id": "test-key", "secret_access_key": "s3cr3t", "region": "us-east-1"}
store = S3Store("exports", endpoint=store, client_options=options, **keys)
asyncio.run(fetch_export("an-export", Bucket(store, prefix), api_key=key, base_url=url))
"""


async def test_after_a_kill_the_next_run_downloads_the_unfinished_file_alone(
    s3: S3, fake: FakeSendGrid, client: ExportClient
) -> None:
    bucket = s3.bucket("killed")
    fake.inject(Stall(10 * MIB), file=1)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, fake.base_url, fake.api_key, s3.url, "killed")
    )
    while not await asyncio.to_thread(lambda: entries(bucket) and s3.uploads()):
        assert process.returncode is None
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    assert names_of(bucket) == [f"{ID}-00002.csv", f"{ID}.manifest.json"]
    asked = len(fake.storage_requests)
    await client.fetch(ID, bucket)
    check_complete(bucket)
    assert len(fake.storage_requests) == asked + 1
    # What the killed process had sent is a matter for the bucket's lifecycle rule.
    assert s3.uploads() == [f"killed/{ID}-00001.csv"]
    s3.abort_all()


async def test_a_killed_backup_of_every_subuser_is_repeated_and_exports_nothing_twice(
    s3: S3, tmp_path: Path
) -> None:
    names = [f"agency-{n}" for n in range(6)]
    subusers = [FakeSubuser(name, contacts=n + 1, ready_after=0.2) for n, name in enumerate(names)]
    async with FakeSendGrid(subusers=subusers) as fake:
        command = Command(fake, tmp_path)
        words = ("backup", "s3://exports/agencies", "--all-subusers", "--jobs", "2")
        process = await command.begin(*words, env=s3.environment)
        assert process.stderr is not None
        assert b"agency" in await process.stderr.readline()
        process.kill()
        await process.wait()
        ended = await command.run(*words, env=s3.environment)
        assert ended.code == 0, ended.errors
        async with ExportClient(**fake.credentials) as client:
            for name in names:
                assert len(await client.for_subuser(name).list_exports()) == 1
        agencies = s3.bucket("agencies")
        assert agencies.list()[1] == [CLAIMS, *names]
        assert names_of(agencies / CLAIMS) == [f"{name}.csv.json" for name in names]
        for name in names:
            [day] = (agencies / name).list()[1]
            kinds = [each.partition(".")[2] for each in names_of(agencies / name / day)]
            assert kinds == ["csv.gz", "manifest.json"]


class Proxy:
    """What stands before a service, and answers one request itself.

    Attributes:
        requests: the requests that came, as method, path and query.
        fail: the number, from 1, of the request that fails; 0: none.
        status: what it is answered.
    """

    def __init__(self, service: str) -> None:
        self.requests: list[str] = []
        self.fail = 0
        self.status = 403
        self._service = service

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(f"{request.method} {request.rel_url.query_string}")
        body = await request.read()
        if len(self.requests) == self.fail:
            code = "AccessDenied" if self.status == 403 else "InternalError"
            text = (
                f"<Error><Code>{code}</Code><SignatureProvided>s3cr3t</SignatureProvided></Error>"
            )
            return web.Response(status=self.status, text=text)
        headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
        url, data = self._service + request.raw_path, io.BytesIO(body)
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(request.method, url, data=data, headers=headers) as answer,
        ):
            kept = {
                k: v
                for k, v in answer.headers.items()
                if k.lower() not in {"transfer-encoding", "connection", "content-length"}
            }
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)


@asynccontextmanager
async def proxy_of(service: str) -> AsyncIterator[tuple[Proxy, str]]:
    proxy = Proxy(service)
    app = web.Application(client_max_size=64 * MIB)
    app.router.add_route("*", "/{path:.*}", proxy.answer)
    async with TestServer(app) as server:
        yield proxy, str(server.make_url("/")).rstrip("/")


@pytest.mark.parametrize("status", [403, 500])
async def test_whichever_request_fails_there_is_no_half_of_an_object_and_no_upload(
    s3: S3, fake: FakeSendGrid, client: ExportClient, status: int
) -> None:
    await fake.add_export(export_id="one", bodies=[BODY])
    failed = 0
    async with proxy_of(s3.url) as (proxy, url):
        for number in range(1, 100):
            proxy.requests, proxy.fail, proxy.status = [], number, status
            prefix = f"fails-{status}-{number}"
            try:
                await client.fetch("one", s3.bucket(prefix, url=url))
            except DownloadError as error:
                failed += 1
                said = str(error)
            else:
                said = ""
            if number > len(proxy.requests):
                break
            # Another attempt helps against 500 alone.
            assert bool(said) == (status == 403)
            assert not said or (said.startswith(f"s3://exports/{prefix}/") and "403" in said)
            assert "s3cr3t" not in said
            assert s3.uploads() == []
            for each in s3.bucket(prefix).list()[0]:
                if each.name != "one.manifest.json":
                    assert each.size == len(BODY)
    assert number > 8


async def test_a_bucket_that_does_not_exist_is_named(s3: S3, client: ExportClient) -> None:
    bucket = s3.bucket("prefix", name="no-such-bucket")
    with pytest.raises(DownloadError, match="the bucket does not exist") as failed:
        await client.fetch(ID, bucket)
    assert (failed.value.status, failed.value.code) == (404, "NoSuchBucket")


async def test_a_store_that_is_not_there_is_an_incomplete_download(
    s3: S3, client: ExportClient
) -> None:
    bucket = s3.bucket("prefix", url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(IncompleteDownloadError, match="what is complete is kept"):
        await client.fetch(ID, bucket)


async def test_credentials_come_from_the_environment(
    s3: S3, client: ExportClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    result = await client.fetch(ID, "s3://exports/from/the environment")
    assert result.files[0].url == f"s3://exports/from/the environment/{ID}-00001.csv"
    assert "s3cr3t" not in repr(result)
    check_complete(s3.bucket("from/the environment"))
    assert (await verify_download("s3://exports/from/the environment", ID)).ok
