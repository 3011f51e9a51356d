"""S3 as LocalStack serves it: signatures, expiry, ETags, conditions and ranges are judged there."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import itertools
import random
import time
from pathlib import Path

import pytest

from sendgrid_exports import (
    DownloadError,
    DownloadPolicy,
    Event,
    ExportClient,
    ExportExpiredError,
    FileStarted,
    LinkRenewed,
)
from sendgrid_exports.testing import FakeClock
from tests.components.conftest import (
    EXPORT_ID,
    MIB,
    Line,
    MakeClient,
    MakeStatus,
    wait_until_durable,
)

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed: nox -s tests_s3")
botocore_config = pytest.importorskip("botocore.config")

PLAIN = b'"EMAIL","CONTACT_ID"\n' + b"".join(
    b'"user%d@example.com","%d"\n' % (number, number) for number in range(5000)
)
IN_TURN = DownloadPolicy(connections=1, piece_size=MIB)


class Bucket:
    """A bucket; what is put into it gets a key of its own."""

    def __init__(self, url: str) -> None:
        self.s3 = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=botocore_config.Config(
                signature_version="s3v4", s3={"addressing_style": "path"}
            ),
        )
        self.s3.create_bucket(Bucket="exports")
        self._numbers = itertools.count(1)

    def put(self, body: bytes, key: str | None = None, **told: str) -> str:
        key = key or f"{next(self._numbers)}.csv.gzip"
        self.s3.put_object(Bucket="exports", Key=key, Body=body, **told)
        return key

    def put_in_parts(self, *parts: bytes) -> str:
        where = {"Bucket": "exports", "Key": f"{next(self._numbers)}.csv.gzip"}
        upload = {**where, "UploadId": self.s3.create_multipart_upload(**where)["UploadId"]}
        done = [
            {
                "PartNumber": number,
                "ETag": self.s3.upload_part(**upload, PartNumber=number, Body=part)["ETag"],
            }
            for number, part in enumerate(parts, start=1)
        ]
        self.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
        return where["Key"]

    def link(self, key: str, seconds: int = 300) -> str:
        link: str = self.s3.generate_presigned_url(
            "get_object", Params={"Bucket": "exports", "Key": key}, ExpiresIn=seconds
        )
        return link

    def etag(self, key: str) -> str:
        etag: str = self.s3.head_object(Bucket="exports", Key=key)["ETag"]
        return etag.strip('"')


@pytest.fixture(scope="module")
def bucket(localstack: str) -> Bucket:
    return Bucket(localstack)


def noise(size: int, seed: int = 0) -> bytes:
    return (b"EMAIL\n" + random.Random(seed).randbytes(size))[:size]


@pytest.mark.parametrize("encoding", ["x-gzip", "gzip", None])
async def test_an_object_arrives_as_it_is_and_is_proven_by_its_etag(
    bucket: Bucket,
    make_status: MakeStatus,
    make_client: MakeClient,
    tmp_path: Path,
    encoding: str | None,
) -> None:
    raw = gzip.compress(PLAIN)
    key = bucket.put(raw, **({"ContentEncoding": encoding} if encoding else {}))
    status = await make_status(lambda: [bucket.link(key)])
    result = await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    [file] = result.files
    assert file.path.read_bytes() == raw
    assert file.path.name == f"{EXPORT_ID}-00001.csv.gz"
    assert file.etag == hashlib.md5(raw).hexdigest()
    assert file.verified_by == ("length", "etag-md5", "gzip-crc")
    assert result.contact_count == 5000


async def test_the_etag_of_a_multipart_object_proves_nothing(
    bucket: Bucket, make_status: MakeStatus, make_client: MakeClient, tmp_path: Path
) -> None:
    parts = noise(5 * MIB), noise(MIB, seed=1)
    key = bucket.put_in_parts(*parts)
    status = await make_status(lambda: [bucket.link(key)])
    result = await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    [file] = result.files
    assert file.path.read_bytes() == b"".join(parts)
    assert file.etag == bucket.etag(key)
    assert file.etag.endswith("-2")
    assert file.verified_by == ("length",)


@pytest.mark.parametrize("own_session", [False, True])
async def test_a_large_object_comes_over_several_connections(
    bucket: Bucket,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
    *,
    own_session: bool,
) -> None:
    body = noise(40 * MIB)
    key = bucket.put(body)
    status = await make_status(lambda: [bucket.link(key)])
    client = make_client(status.base_url, **({"session": None} if own_session else {}))
    result = await client.fetch(EXPORT_ID, tmp_path)
    [file] = result.files
    assert file.path.read_bytes() == body
    assert file.verified_by == ("length", "etag-md5")
    assert status.looks == 1
    if not own_session:
        assert set(line.statuses) == {206}
        assert len(set(line.ranges)) == len(line.ranges) > 3
        assert line.connections > 3


async def test_an_empty_object_is_an_empty_file(
    bucket: Bucket, make_status: MakeStatus, make_client: MakeClient, line: Line, tmp_path: Path
) -> None:
    keys = [bucket.put(b""), bucket.put(PLAIN)]
    status = await make_status(lambda: [bucket.link(key) for key in keys])
    result = await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    assert [file.path.read_bytes() for file in result.files] == [b"", PLAIN]
    assert sorted(line.statuses) == [200, 206, 416]
    assert status.looks == 1


@pytest.mark.parametrize("name", ["a b+c.csv", "ü%2F/=&;$.csv", "'(x)'~!*@:,.csv"])
async def test_a_signed_link_is_sent_byte_for_byte(
    bucket: Bucket, make_status: MakeStatus, make_client: MakeClient, tmp_path: Path, name: str
) -> None:
    key = bucket.put(PLAIN, key=name)
    status = await make_status(lambda: [bucket.link(key)])
    result = await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    assert result.files[0].path.read_bytes() == PLAIN


async def test_an_expired_link_costs_one_request_and_one_fresh_status(
    bucket: Bucket,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
) -> None:
    key = bucket.put(PLAIN)
    expired = bucket.link(key, seconds=1)
    await asyncio.sleep(2.1)
    links = iter([expired])
    status = await make_status(lambda: [next(links, None) or bucket.link(key)])
    result = await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    assert result.files[0].path.read_bytes() == PLAIN
    assert line.statuses == [403, 206]
    assert status.looks == 2


async def test_links_that_die_between_ranges_are_renewed(
    bucket: Bucket,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
    events: list[Event],
) -> None:
    body = noise(6 * MIB)
    key = bucket.put(body)
    line.before = {number: lambda: time.sleep(0.7) for number in range(2, 7)}
    status = await make_status(lambda: [bucket.link(key, seconds=1)])
    client = make_client(status.base_url, downloads=IN_TURN)
    result = await client.fetch(EXPORT_ID, tmp_path, on_event=events.append)
    assert result.files[0].path.read_bytes() == body
    assert line.statuses.count(206) == 6
    assert 2 <= sum(isinstance(event, LinkRenewed) for event in events) <= 6


async def test_a_signature_that_does_not_match_ends_it_at_once(
    bucket: Bucket, make_status: MakeStatus, make_client: MakeClient, line: Line, tmp_path: Path
) -> None:
    link = bucket.link(bucket.put(PLAIN))
    signature = link.rpartition("=")[2]
    tampered = link.removesuffix(signature) + signature[::-1]
    status = await make_status(lambda: [tampered])
    with pytest.raises(DownloadError, match="SignatureDoesNotMatch") as caught:
        await make_client(status.base_url).fetch(EXPORT_ID, tmp_path)
    assert (caught.value.status, caught.value.code) == (403, "SignatureDoesNotMatch")
    assert line.statuses == [403]
    assert status.looks == 1
    told = f"{caught.value} {caught.value!r} {caught.value.url}"
    assert signature[::-1] not in told
    assert "X-Amz-Credential" not in told
    assert [path.name for path in tmp_path.iterdir()] == [f"{EXPORT_ID}.manifest.json"]


async def test_an_object_that_is_gone_is_an_expired_export(
    bucket: Bucket, make_status: MakeStatus, make_client: MakeClient, line: Line, tmp_path: Path
) -> None:
    status = await make_status(lambda: [bucket.link("never-there.csv")])
    client = make_client(status.base_url, downloads=DownloadPolicy(attempts=2))
    with pytest.raises(ExportExpiredError, match="NoSuchKey"):
        await client.fetch(EXPORT_ID, tmp_path)
    assert line.statuses == [404, 404]


@pytest.mark.parametrize("size", [6 * MIB, 5 * MIB + 1, 2 * MIB, 0])
async def test_an_object_overwritten_between_two_ranges_is_never_mixed(
    bucket: Bucket,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
    size: int,
) -> None:
    old, new = noise(6 * MIB), noise(size, seed=1)
    key = bucket.put(old)
    line.before[3] = lambda: bucket.put(new, key=key)
    status = await make_status(lambda: [bucket.link(key)])
    client = make_client(status.base_url, downloads=IN_TURN)
    result = await client.fetch(EXPORT_ID, tmp_path)
    assert result.files[0].path.read_bytes() == new
    assert "etag-md5" in result.files[0].verified_by
    assert line.statuses[:3] == [206, 206, 412]


async def cancel_when_durable(
    client: ExportClient, line: Line, directory: Path, *, before: int
) -> None:
    """Cancel a fetch before that request, once the journal says that something is kept."""
    loop = asyncio.get_running_loop()
    fetching = asyncio.ensure_future(client.fetch(EXPORT_ID, directory))

    def cancel() -> None:
        wait_until_durable(directory, EXPORT_ID)
        loop.call_soon_threadsafe(fetching.cancel)

    line.before[before] = cancel
    with pytest.raises(asyncio.CancelledError):
        await fetching


@pytest.mark.parametrize("overwritten", [False, True])
async def test_what_was_cancelled_goes_on_unless_the_object_is_another(
    bucket: Bucket,
    make_status: MakeStatus,
    make_client: MakeClient,
    line: Line,
    tmp_path: Path,
    events: list[Event],
    *,
    overwritten: bool,
) -> None:
    body = noise(24 * MIB)
    key = bucket.put(body)
    status = await make_status(lambda: [bucket.link(key)])
    # No second passes on that clock: the first sync comes with the sixteenth MiB.
    client = make_client(status.base_url, downloads=IN_TURN, clock=FakeClock())
    await cancel_when_durable(client, line, tmp_path, before=20)
    assert not list(tmp_path.glob("*.csv*"))
    if overwritten:
        body = noise(24 * MIB, seed=1)
        bucket.put(body, key=key)

    line.statuses.clear()
    result = await client.fetch(EXPORT_ID, tmp_path, on_event=events.append)
    assert result.files[0].path.read_bytes() == body
    assert "etag-md5" in result.files[0].verified_by
    if overwritten:
        assert line.statuses == [412] + [206] * 24
    else:
        [started] = [event for event in events if isinstance(event, FileStarted)]
        assert started.received >= 16 * MIB
        assert len(line.statuses) <= 8
    assert not (tmp_path / f"{EXPORT_ID}.journal").exists()
