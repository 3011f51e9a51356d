"""`backup --all-subusers` as cron meets it: the table, the document, exit codes, a kill."""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sendgrid_exports import Bucket, ExportClient
from sendgrid_exports.cli.accounts import Order, back_up_accounts
from sendgrid_exports.cli.output import Output
from sendgrid_exports.testing import FakeSendGrid, FakeSubuser
from tests.integration.command import Command, Ended

SOUND = [f"agency-{n}" for n in range(6)]


@pytest.fixture
async def fake() -> AsyncIterator[FakeSendGrid]:
    sound = [FakeSubuser(name, contacts=n + 1, ready_after=0.2) for n, name in enumerate(SOUND)]
    async with FakeSendGrid(subusers=sound) as fake:
        yield fake


@pytest.fixture
def command(fake: FakeSendGrid, tmp_path: Path) -> Command:
    return Command(fake, tmp_path)


def add(fake: FakeSendGrid, *subusers: FakeSubuser) -> None:
    """Have more subusers than the fixture's."""
    fake._world.subusers |= {subuser.username: subuser for subuser in subusers}


def accounts_of(ended: Ended) -> dict[str, dict[str, Any]]:
    return {account["name"]: account for account in json.loads(ended.output)["accounts"]}


async def back_up(command: Command, *options: str) -> Ended:
    return await command.here("backup", "b", "--all-subusers", *options)


async def test_every_subuser_is_backed_up_below_the_directory(command: Command) -> None:
    ended = await back_up(command, "--output", "json")
    assert ended.code == 0, ended.errors
    document = json.loads(ended.output)
    assert (document["verified"], document["failed"]) == (6, [])
    accounts = accounts_of(ended)
    assert {name: account["contacts"] for name, account in accounts.items()} == {
        name: n + 1 for n, name in enumerate(SOUND)
    }
    for name, account in accounts.items():
        assert Path(account["directory"]).parent == Path("b", name)
        assert account["counts"]
        [file] = account["files"]
        assert (command.directory / file["path"]).is_file()


async def test_the_table_names_what_failed_and_why_and_so_does_the_last_line(
    command: Command, fake: FakeSendGrid
) -> None:
    add(
        fake,
        FakeSubuser("failing", statuses=["failure"], message="too large"),
        FakeSubuser("endless", statuses=["pending"]),
        FakeSubuser("off", disabled=True),
        FakeSubuser("in eu", region="eu", contacts=9),
    )
    ended = await back_up(
        command,
        *("--except", "agency-1", "--except", "typo", "--timeout", "4s"),
        *("--eu-base-url", fake.eu_base_url),
    )
    assert ended.code == 11
    rows = {row[:10].strip(): row[10:].split() for row in ended.output.splitlines()[1:]}
    states = {name: row[0] for name, row in rows.items()}
    assert states == {
        **dict.fromkeys(SOUND, "verified"),
        "agency-1": "left",
        "failing": "failed",
        "endless": "failed",
        "off": "disabled",
        "in eu": "verified",
    }
    assert rows["in eu"][1:3] == ["9", "1"]
    assert "too large" in " ".join(rows["failing"])
    assert ended.errors.splitlines()[-2:] == [
        "There is no subuser typo to leave out.",
        "2 of 10 subusers could not be backed up: failing, endless.",
    ]


async def test_a_region_whose_host_is_unknown_is_the_failure_of_its_subuser_alone(
    command: Command, fake: FakeSendGrid
) -> None:
    add(fake, FakeSubuser("in eu", region="eu"))
    ended = await back_up(command, "--output", "json", "--quiet", "--verbose")
    assert ended.code == 11
    assert ended.errors.count("Traceback") == 1
    assert "in for_subuser" in ended.errors
    accounts = accounts_of(ended)
    assert "eu_base_url" in accounts["in eu"]["error"]["message"]
    assert sum(account["state"] == "verified" for account in accounts.values()) == 6


async def test_a_run_that_is_killed_and_repeated_exports_nothing_twice(
    command: Command, fake: FakeSendGrid
) -> None:
    words = ("backup", "b", "--all-subusers", "--jobs", "2")
    process = await command.begin(*words)
    assert process.stderr is not None
    await process.stderr.readline()
    process.kill()
    await process.wait()
    ended = await command.run(*words)
    assert ended.code == 0, ended.errors
    async with ExportClient(**fake.credentials) as client:
        for name in SOUND:
            assert len(await client.for_subuser(name).list_exports()) == 1


async def test_a_signal_ends_it_with_the_table_so_far(command: Command, fake: FakeSendGrid) -> None:
    add(fake, FakeSubuser("endless", statuses=["pending"]))
    process = await command.begin("backup", "b", "--all-subusers")
    assert process.stderr is not None
    lines = [(await process.stderr.readline()).decode() for _ in SOUND]
    assert sorted(line.partition(":")[0] for line in lines) == SOUND
    process.send_signal(signal.SIGTERM)
    ended = await command.end(process)
    assert ended.code == 143
    assert "Run the same command again" in ended.errors
    assert ended.output.count("verified") == 6
    assert "unfinished" in ended.output
    await asyncio.sleep(0)


async def test_keep_drops_the_oldest_of_each_account(command: Command) -> None:
    assert (await back_up(command)).code == 0
    for name in SOUND:
        [folder] = (command.directory / "b" / name).iterdir()
        folder.rename(folder.with_name("2026-01-02"))
        [manifest] = folder.with_name("2026-01-02").glob("*.manifest.json")
        old = json.loads(manifest.read_text())
        old["export"]["created_at"] = "2026-01-02T01:00:00Z"
        manifest.write_text(json.dumps(old))
    ended = await back_up(command, "--keep", "1", "--output", "json")
    assert ended.code == 0, ended.errors
    for name, account in accounts_of(ended).items():
        assert account["dropped"] == [str(Path("b", name, "2026-01-02"))]
        assert len([*(command.directory / "b" / name).iterdir()]) == 1


@pytest.mark.parametrize("pattern", ["", "/{account}/{date}"])
async def test_every_subuser_is_backed_up_to_a_bucket_and_the_oldest_are_dropped(
    command: Command, fake: FakeSendGrid, pattern: str
) -> None:
    add(fake, FakeSubuser("failing", statuses=["failure"]))
    target = f"memory://{secrets.token_hex(4)}/b"
    words = ("backup", target + pattern, "--all-subusers", "--output", "json")
    ended = await command.here(*words)
    assert ended.code == 11, ended.errors
    base = Bucket.from_url(target)
    for name, account in accounts_of(ended).items():
        if name == "failing":
            continue
        [day] = (base / name).list()[1]
        new, old = base / name / day, base / name / "2026-01-02"
        assert account["directory"] == new.url
        assert [each["url"] for each in account["files"]] == [
            new.url_of(f"{account['export_id']}-00001.csv.gz")
        ]
        for each in new.list()[0]:
            data, _ = new.read(each.name) or (b"", None)
            if each.name.endswith(".manifest.json"):
                manifest = json.loads(data)
                manifest["export"]["created_at"] = "2026-01-02T01:00:00Z"
                data = json.dumps(manifest).encode()
            old.create(each.name, data)
            new.delete(each.name)
    fake._world.subusers["failing"].statuses = ("ready",)
    started = sum(request.method == "POST" for request in fake.api_requests)
    ended = await command.here(*words, "--keep", "1")
    assert ended.code == 0, ended.errors
    for name, account in accounts_of(ended).items():
        dropped = [] if name == "failing" else [f"{target}/{name}/2026-01-02"]
        assert account["dropped"] == dropped
        [day] = (base / name).list()[1]
        assert account["directory"] == f"{target}/{name}/{day}"
    assert sum(request.method == "POST" for request in fake.api_requests) == started + 7
    # The same night again: nothing is started and nothing is dropped.
    ended = await command.here(*words, "--keep", "1")
    assert (ended.code, json.loads(ended.output)["verified"]) == (0, 7)
    assert sum(request.method == "POST" for request in fake.api_requests) == started + 7


async def test_plain_files_for_every_subuser_need_a_directory(
    command: Command, request: pytest.FixtureRequest
) -> None:
    target = f"memory://{request.node.name}"
    ended = await command.here("backup", target, "--all-subusers", "--decompress")
    assert ended.code == 2, ended.errors
    assert "ecompress=True is for a directory" in ended.errors
    assert not any(request.method == "POST" for request in command.fake.requests)


async def test_much_less_than_the_last_time_drops_nothing_unless_it_is_meant(
    command: Command, fake: FakeSendGrid
) -> None:
    fake._world.subusers["agency-5"].contacts = 100
    assert (await back_up(command)).code == 0
    [folder] = (command.directory / "b" / "agency-5").iterdir()
    folder.rename(folder.with_name("2026-01-02"))
    fake._world.subusers["agency-5"].contacts = 10
    ended = await back_up(command, "--keep", "1", "--output", "json")
    account = accounts_of(ended)["agency-5"]
    assert (account["counts"], account["dropped"]) == (False, [])
    assert "holds 10, and 2026-01-02 holds 100" in ended.errors
    # What was exported is meant to be so, and is not exported again.
    ended = await back_up(command, "--keep", "1", "--allow-shrink", "--output", "json")
    account = accounts_of(ended)["agency-5"]
    assert (account["counts"], account["dropped"]) == (True, [str(Path("b/agency-5/2026-01-02"))])
    ended = await back_up(command, "--output", "json")
    assert accounts_of(ended)["agency-5"]["counts"]
    async with ExportClient(**fake.credentials) as client:
        assert len(await client.for_subuser("agency-5").list_exports()) == 2


@pytest.mark.parametrize(
    "options",
    [
        ("--all-subusers", "--list", "x"),
        ("--all-subusers", "--segment", "x"),
        ("--all-subusers", "--on-behalf-of", "x"),
        ("--except", "x"),
        ("--jobs", "8"),
        ("--eu-base-url", "http://127.0.0.1:1"),
    ],
)
async def test_options_that_do_not_belong_together_are_refused(
    command: Command, options: tuple[str, ...]
) -> None:
    ended = await command.here("backup", "b", *options)
    assert ended.code == 2
    assert "--all-subusers" in ended.errors
    assert command.fake.requests == []


async def test_a_backup_of_nothing_is_not_a_success(command: Command, fake: FakeSendGrid) -> None:
    fake._world.subusers.clear()
    add(fake, FakeSubuser("off", disabled=True))
    ended = await back_up(command, "--quiet")
    assert ended.code == 11
    assert ended.errors == "There is no subuser to back up.\n"


async def test_a_pattern_may_say_where_the_backups_go(command: Command) -> None:
    ended = await command.here("backup", "by/{date}/{account}", "--all-subusers")
    assert ended.code == 0, ended.errors
    [day] = (command.directory / "by").iterdir()
    assert sorted(path.name for path in day.iterdir()) == SOUND


async def test_a_key_that_may_not_list_the_subusers_gets_an_error_that_says_so(
    command: Command, fake: FakeSendGrid
) -> None:
    fake.scopes = ("marketing.read",)
    ended = await back_up(command)
    assert ended.code == 3
    assert "subusers.read" in ended.errors


def test_an_interruption_while_older_backups_are_verified_shows_the_table(tmp_path: Path) -> None:
    class Interrupted(Output):
        def warn(self, text: str) -> None:
            raise KeyboardInterrupt

    errors, answers = io.StringIO(), io.StringIO()
    with FakeSendGrid.in_thread(subusers=[FakeSubuser("empty", contacts=0)]) as fake:
        order = Order(
            target=tmp_path,
            client=fake.credentials,
            excepted=(),
            jobs=1,
            keep=1,
            allow_shrink=False,
            selection={"file_type": "csv", "max_file_size": None},
            timeout=None,
        )
        with pytest.raises(KeyboardInterrupt):
            back_up_accounts(Interrupted(Console(file=errors), Console(file=answers)), order)
    assert answers.getvalue().splitlines()[1].split()[:2] == ["empty", "verified"]
    assert "Run the same command again" in errors.getvalue()
