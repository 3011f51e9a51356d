"""Bad arguments are named at once: a TypeError or ValueError, and not one request."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sendgrid_exports import (
    ContactExport,
    DownloadPolicy,
    ExportClient,
    ExportStatus,
    PollPolicy,
    Verify,
    export_contacts,
    fetch_export,
)
from sendgrid_exports.testing import FakeSendGrid

pytestmark = pytest.mark.fake_sendgrid(contacts=1)


@pytest.fixture
async def fake(fake: FakeSendGrid) -> AsyncIterator[FakeSendGrid]:
    yield fake
    assert fake.requests == []


READY = ContactExport(id="x", status=ExportStatus.READY, urls=("https://storage.invalid/x.csv",))


# The client

BAD_TEXTS = [
    ("", ValueError),
    (" \t", ValueError),
    ("a\r\nX-Injected: 1", ValueError),
    ("a\nb", ValueError),
    ("a\0b", ValueError),
    ("\ud800", ValueError),
    (None, TypeError),
    (5, TypeError),
    (b"bytes", TypeError),
    (["list"], TypeError),
]
bad_texts = pytest.mark.parametrize(("text", "error"), BAD_TEXTS)


@bad_texts
def test_a_bad_api_key_is_named(text: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="api_key"):
        ExportClient(text)


def test_a_bad_api_key_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="api_key") as caught:
        ExportClient("SG.the-secret\n")
    assert "the-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        *(({"on_behalf_of": text}, error) for text, error in BAD_TEXTS if text is not None),
        *(({"base_url": text}, error) for text, error in BAD_TEXTS),
        ({"base_url": "api.sendgrid.com"}, ValueError),
        ({"base_url": "ftp://api.sendgrid.com"}, ValueError),
        ({"base_url": "file:///etc"}, ValueError),
        ({"base_url": "https://"}, ValueError),
        ({"base_url": "https://user:secret@api.sendgrid.com"}, ValueError),
        ({"base_url": "https://user@api.sendgrid.com"}, ValueError),
        ({"base_url": "https://api.sendgrid.com?x=1"}, ValueError),
        ({"base_url": "https://api.sendgrid.com/#here"}, ValueError),
        ({"base_url": "https://api.sendgrid.com:port"}, ValueError),
        ({"base_url": "https://api.sendgrid.com:99999"}, ValueError),
        ({"base_url": "https://[::1"}, ValueError),
        ({"polling": {"initial": 1}}, TypeError),
        ({"polling": DownloadPolicy()}, TypeError),
        ({"polling": PollPolicy}, TypeError),
        ({"downloads": PollPolicy()}, TypeError),
        ({"downloads": 16}, TypeError),
        ({"session": "session"}, TypeError),
        ({"session": aiohttp.ClientSession}, TypeError),
    ],
)
def test_a_bad_argument_of_the_client_is_named(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    (name,) = arguments
    with pytest.raises(error, match=name) as caught:
        ExportClient("SG.key", **arguments)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "base_url",
    [
        "https://api.sendgrid.com?",
        "https://api.sendgrid.com#",
        "https://api..sendgrid.com",
        f"https://{'a' * 64}.com",
    ],
)
def test_base_url_rejects_what_can_never_work(base_url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        ExportClient("SG.key", base_url=base_url)


async def test_a_closed_session_is_refused() -> None:
    async with aiohttp.ClientSession() as session:
        pass
    with pytest.raises(ValueError, match=r"session.*closed"):
        ExportClient("SG.key", session=session)


# Ids, durations, listeners

WITH_AN_ID: dict[str, Callable[[ExportClient, Any, Path], Awaitable[object]]] = {
    "get": lambda client, export_id, _: client.get(export_id),
    "wait": lambda client, export_id, _: client.wait(export_id),
    "fetch": lambda client, export_id, path: client.fetch(export_id, path),
    "fetch_export": lambda _, export_id, path: fetch_export(export_id, path, api_key="SG.key"),
}


@pytest.mark.parametrize("call", WITH_AN_ID.values(), ids=WITH_AN_ID.keys())
@bad_texts
async def test_a_bad_export_id_is_named(
    client: ExportClient,
    tmp_path: Path,
    call: Callable[[ExportClient, Any, Path], Awaitable[object]],
    text: Any,
    error: type[Exception],
) -> None:
    with pytest.raises(error, match="export_id"):
        await call(client, text, tmp_path)
    assert not any(tmp_path.iterdir())


Call = Callable[..., Awaitable[object]]

ONES_OWN_CALLS: dict[str, Call] = {
    "download": lambda client, _, path, **more: client.download(READY, path, **more),
    "fetch": lambda client, _, path, **more: client.fetch("x", path, **more),
    "fetch_export": lambda _, fake, path, **more: fetch_export(
        "x", path, **fake.credentials, **more
    ),
    "export_contacts": lambda _, fake, path, **more: export_contacts(
        path, **fake.credentials, **more
    ),
}
LONG_CALLS: dict[str, Call] = ONES_OWN_CALLS | {
    "wait": lambda client, _, path, **more: client.wait("x", **more),
}
with_a_directory = pytest.mark.parametrize(
    "call", ONES_OWN_CALLS.values(), ids=ONES_OWN_CALLS.keys()
)
every_long_call = pytest.mark.parametrize("call", LONG_CALLS.values(), ids=LONG_CALLS.keys())


@every_long_call
@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"timeout": -1}, ValueError),
        ({"timeout": -0.001}, ValueError),
        ({"timeout": timedelta(seconds=-1)}, ValueError),
        ({"timeout": math.nan}, ValueError),
        ({"timeout": math.inf}, ValueError),
        ({"timeout": "60"}, TypeError),
        ({"timeout": True}, TypeError),
        ({"timeout": [60]}, TypeError),
        ({"on_event": "print"}, TypeError),
        ({"on_event": 5}, TypeError),
        ({"on_event": asyncio.sleep}, TypeError),
        pytest.param({"timeout": 10**400}, ValueError),
    ],
)
async def test_a_bad_timeout_or_on_event_is_named(
    client: ExportClient,
    fake: FakeSendGrid,
    tmp_path: Path,
    call: Call,
    arguments: dict[str, Any],
    error: type[Exception],
) -> None:
    (name,) = arguments
    with pytest.raises(error, match=name):
        await call(client, fake, tmp_path, **arguments)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("export", [None, "x", {"id": "x"}, ContactExport])
async def test_download_refuses_anything_but_a_contact_export(
    client: ExportClient, tmp_path: Path, export: Any
) -> None:
    with pytest.raises(TypeError, match="export"):
        await client.download(export, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"list_ids": "11111111-aaaa"}, TypeError),
        ({"segment_ids": "11111111-aaaa"}, TypeError),
        ({"list_ids": [None]}, TypeError),
        ({"file_type": "CSV"}, ValueError),
        ({"max_file_size": 0}, ValueError),
        ({"api_key": ""}, ValueError),
        ({"base_url": "ftp://x"}, ValueError),
        ({"polling": 1}, TypeError),
    ],
)
async def test_export_contacts_starts_nothing_with_a_bad_argument(
    fake: FakeSendGrid, tmp_path: Path, arguments: dict[str, Any], error: type[Exception]
) -> None:
    (name,) = arguments
    everything = {**fake.credentials, **arguments}
    with pytest.raises(error, match=name):
        await export_contacts(tmp_path, **everything)
    assert not any(tmp_path.iterdir())


# Directories


@with_a_directory
@pytest.mark.parametrize(
    ("directory", "error"),
    [
        ("", ValueError),
        (None, TypeError),
        (5, TypeError),
        (b"bytes", TypeError),
        pytest.param("a\0b", ValueError),
    ],
)
async def test_a_bad_directory_is_named(
    client: ExportClient,
    fake: FakeSendGrid,
    call: Call,
    directory: Any,
    error: type[Exception],
) -> None:
    with pytest.raises(error, match="directory"):
        await call(client, fake, directory)


@with_a_directory
@pytest.mark.parametrize("below", [".", "below", "far/below"])
async def test_a_directory_that_is_a_file_or_lies_below_one_is_refused(
    client: ExportClient, fake: FakeSendGrid, tmp_path: Path, call: Call, below: str
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(ValueError, match="directory"):
        await call(client, fake, file / below)
    assert file.read_text() == "kept"


@with_a_directory
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
@pytest.mark.parametrize("directory", ["/proc", "/proc/made"])
async def test_an_unwritable_directory_is_refused(
    client: ExportClient, fake: FakeSendGrid, call: Call, directory: str
) -> None:
    with pytest.raises(ValueError, match=r"directory.*not writable"):
        await call(client, fake, directory)


# Settings

DURATIONS = [(-1, ValueError), (math.nan, ValueError), ("1", TypeError), (True, TypeError)]
WHOLE = [(-1, ValueError), (1.5, TypeError), ("8", TypeError), (True, TypeError)]
SWITCHES = [("yes", TypeError), (1, TypeError), (None, TypeError)]


def all_of(names: str, values: Sequence[tuple[Any, type[Exception]]]) -> list[Any]:
    return [({name: value}, error) for name in names.split() for value, error in values]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        *all_of("initial maximum timeout", DURATIONS),
        *all_of("initial maximum", [(0, ValueError), (timedelta(), ValueError)]),
        *all_of("timeout", [(math.inf, ValueError), (None, TypeError)]),
        *all_of("factor", [*DURATIONS, (0.5, ValueError), (math.inf, ValueError)]),
        *all_of("max_failures", [*WHOLE, (0, ValueError)]),
    ],
)
def test_a_bad_setting_of_polling_is_named(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    (name,) = arguments
    with pytest.raises(error, match=name):
        PollPolicy(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        *all_of("read_timeout speed_window", [*DURATIONS, (0, ValueError)]),
        *all_of("connections connections_per_file piece_size attempts", [*WHOLE, (0, ValueError)]),
        *all_of("minimum_speed", WHOLE),
        *all_of("decompress require_count", SWITCHES),
        *all_of("verify", [("contents", TypeError), (None, TypeError)]),
    ],
)
def test_a_bad_setting_of_downloading_is_named(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    (name,) = arguments
    with pytest.raises(error, match=name):
        DownloadPolicy(**arguments)


@pytest.mark.parametrize("verify", [Verify.LENGTH, Verify.CHECKSUM])
def test_require_count_needs_verify_contents(verify: Verify) -> None:
    with pytest.raises(ValueError, match=r"require_count.*verify"):
        DownloadPolicy(require_count=True, verify=verify)


@pytest.mark.parametrize("policy", [PollPolicy, DownloadPolicy])
def test_settings_are_keyword_only(policy: Any) -> None:
    with pytest.raises(TypeError):
        policy(1)


def test_durations_may_be_timedeltas() -> None:
    assert PollPolicy(initial=timedelta(seconds=2)) == PollPolicy(initial=2)
    assert DownloadPolicy(read_timeout=timedelta(minutes=1)) == DownloadPolicy(read_timeout=60)
