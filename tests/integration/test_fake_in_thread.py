"""The fake in a thread of its own: every method from synchronous code, and a clean end."""

from __future__ import annotations

import asyncio
import http.client
import inspect
import subprocess
import sys
import threading
import time
import types
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sendgrid_exports import AuthenticationError, ExportClient, export_contacts
from sendgrid_exports.testing import (
    FakeClock,
    FakeSendGrid,
    Stall,
    Status,
    ThreadedFakeSendGrid,
)

BODY = bytes(range(256)) * 4


def read(url: str) -> bytes:
    with urllib.request.urlopen(url) as response:
        body: bytes = response.read()
    return body


def status_of(url: str) -> int:
    try:
        read(url)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def test_synchronous_code_gets_its_export(tmp_path: Path) -> None:
    with FakeSendGrid.in_thread(contacts=7, statuses=["ready"]) as fake:
        result = asyncio.run(export_contacts(tmp_path, **fake.credentials))
        assert result.contact_count == 7
        [file] = result.files
        assert (file.path.read_bytes(),) == fake.file_bytes(result.export.id)
        assert len(fake.api_requests) == 2
        assert len(fake.storage_requests) == 1


def test_every_method_works_from_the_callers_thread() -> None:
    clock = FakeClock()
    with FakeSendGrid.in_thread(clock=clock) as fake:
        export_id = fake.add_export(bodies=[BODY])
        assert fake.file_path(export_id, 1).read_bytes() == BODY
        [link] = fake.links(export_id)
        assert read(link) == BODY
        fake.inject(Status(500))
        assert [status_of(link) for _ in range(2)] == [500, 200]
        fake.inject(Status(500), times=None)
        fake.clear_faults()
        assert status_of(link) == 200
        [old] = fake.etags(export_id)
        fake.replace_file(export_id, 1, BODY[::-1])
        assert read(link) == BODY[::-1]
        assert fake.etags(export_id) != (old,)
        fake.expire_links()
        assert status_of(link) == 403
        [link] = fake.links(export_id)
        clock.advance(300)
        assert status_of(link) == 403
        fake.remove_files(export_id)
        assert status_of(fake.links(export_id)[0]) == 404
        generated = fake.add_export(contacts=3)
        assert len(list(fake.contacts_of(generated))) == len(list(fake.rows_of(generated))) == 3
        with pytest.raises(KeyError):
            fake.links("unknown")


async def get(fake: ThreadedFakeSendGrid) -> None:
    async with ExportClient(**fake.credentials) as client:
        await client.get("x")


def test_scripted_answers_reach_synchronous_code() -> None:
    with FakeSendGrid.in_thread() as fake:
        fake.respond(401)
        with pytest.raises(AuthenticationError):
            asyncio.run(get(fake))


def test_it_offers_what_the_fake_itself_offers() -> None:
    members = vars(FakeSendGrid).items()
    methods = {
        name for name, member in members if isinstance(member, property | types.FunctionType)
    }
    offered = {name for name in vars(ThreadedFakeSendGrid) if not name.startswith("_")}
    assert offered == {name for name in methods if not name.startswith("_")} | {"api_key"}
    for name in offered:
        assert inspect.getdoc(getattr(ThreadedFakeSendGrid, name))


def test_several_threads_may_use_it_at_once() -> None:
    with FakeSendGrid.in_thread(contacts=2) as fake, ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda _: fake.add_export(), range(40)))
        links = list(threads.map(lambda export_id: fake.links(export_id)[0], ids))
        assert set(threads.map(status_of, links)) == {200}
    assert len(set(ids)) == len(set(links)) == 40


def test_another_process_may_use_it(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys; from sendgrid_exports import export_contacts; "
        "asyncio.run(export_contacts(sys.argv[1], api_key=sys.argv[2], base_url=sys.argv[3]))"
    )
    with FakeSendGrid.in_thread(contacts=2, statuses=["ready"]) as fake:
        words = [str(tmp_path), fake.api_key, fake.base_url]
        subprocess.run([sys.executable, "-c", code, *words], check=True)
    assert list(tmp_path.glob("*.csv.gz"))


def test_the_end_of_the_block_ends_requests_under_way_and_leaves_no_thread() -> None:
    with (
        ThreadPoolExecutor(1) as client,
        FakeSendGrid.in_thread(contacts=2) as fake,
    ):
        fake.inject(Stall(), times=None)
        directory = fake.directory
        hanging = client.submit(read, fake.links(fake.add_export())[0])
        while not fake.storage_requests:
            time.sleep(0.001)
    with pytest.raises((OSError, http.client.HTTPException)):
        hanging.result()
    assert not directory.exists()
    # The watch and the threads of the files end by themselves.
    for _ in range(1000):
        if not any("fake-sendgrid" in thread.name for thread in threading.enumerate()):
            break
        time.sleep(0.001)
    else:
        pytest.fail("a thread lives on")


def test_an_error_in_the_block_is_the_callers_own() -> None:
    with pytest.raises(ZeroDivisionError), FakeSendGrid.in_thread():
        raise ZeroDivisionError


def test_a_bad_argument_is_named_before_a_thread_starts() -> None:
    with pytest.raises(TypeError, match="contatcs"):
        FakeSendGrid.in_thread(contatcs=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="statuses"):
        FakeSendGrid.in_thread(statuses=[])
