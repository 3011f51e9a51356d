"""The command as scripts and cron jobs meet it: answers, exit codes, signals, pipes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow.parquet
import pytest

from sendgrid_exports import verify_download
from sendgrid_exports.cli.backups import read_name
from sendgrid_exports.testing import (
    EarlyEnd,
    ExpiredLink,
    FakeSendGrid,
    FlippedBit,
    Stall,
    Status,
)
from tests.integration.command import CLEAN, COMMAND, Command, Ended

Fake: TypeAlias = FakeSendGrid


@pytest.fixture
async def fake() -> AsyncIterator[FakeSendGrid]:
    async with FakeSendGrid(contacts=500, files=2, statuses=["ready"]) as fake:
        yield fake


@pytest.fixture
def command(fake: FakeSendGrid, tmp_path: Path) -> Command:
    return Command(fake, tmp_path)


def document(ended: Ended) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(ended.output)
    return told


# What each command does


async def test_a_backup_is_verified_in_a_dated_folder(command: Command) -> None:
    ended = await command.run("backup", "backups")
    assert ended.code == 0, ended.errors
    [folder] = (command.directory / "backups").iterdir()
    assert read_name(folder.name)
    [manifest] = folder.glob("*.manifest.json")
    report = await verify_download(folder, manifest.name.removesuffix(".manifest.json"))
    assert report.ok
    assert f"500 contacts in 2 files of backups/{folder.name}" in ended.output
    assert "00001.csv.gz" in ended.output
    assert "length, etag-md5, gzip-crc" in ended.output
    lines = ended.errors.splitlines()
    assert re.fullmatch(r"Export [\w-]+ started\.", lines[0])
    assert re.fullmatch(r"Ready after \d+ s: 500 contacts in 2 files\.", lines[1])
    assert len([line for line in lines if "Downloaded and verified" in line]) == 2


async def test_a_backup_passes_on_what_to_export(command: Command) -> None:
    ended = await command.here(
        *("backup", "b", "--list", "one", "--list", "two", "--segment", "three", "--json"),
        *("--max-file-size", "7", "--on-behalf-of", "sub", "--connections", "2", "--decompress"),
        *("--output", "json"),
    )
    assert ended.code == 0, ended.errors
    [request] = [one for one in command.fake.api_requests if one.method == "POST"]
    asked = json.loads(request.body)
    assert asked["list_ids"] == ["one", "two"]
    assert asked["segment_ids"] == ["three"]
    assert (asked["file_type"], asked["max_file_size"]) == ("json", 7)
    assert request.headers["on-behalf-of"] == "sub"
    told = document(ended)
    assert [Path(file["path"]).suffix for file in told["files"]] == [".json", ".json"]


async def test_keep_drops_the_oldest_once_the_new_one_is_verified(command: Command) -> None:
    backups = command.directory / "backups"
    for _ in range(3):
        assert (await command.here("backup", "backups", "--quiet")).code == 0
    before = sorted(path.name for path in backups.iterdir())
    ended = await command.here("backup", "backups", "--keep", "2", "--output", "json")
    told = document(ended)
    after = sorted(path.name for path in backups.iterdir())
    kept = [max(before, key=lambda name: read_name(name) or 0), Path(told["directory"]).name]
    assert after == sorted(kept)
    assert {Path(path).name for path in told["dropped"]} == set(before) - set(kept)


@pytest.mark.parametrize(
    "fail",
    [
        lambda fake: fake.respond(401, times=None),
        lambda fake: fake.inject(FlippedBit(at=30), times=None),
    ],
    ids=["refused", "corrupt"],
)
async def test_a_backup_that_fails_drops_nothing(
    command: Command, fail: Callable[[Fake], None]
) -> None:
    assert (await command.here("backup", "backups")).code == 0
    [good] = (command.directory / "backups").iterdir()
    fail(command.fake)
    ended = await command.here("backup", "backups", "--keep", "1")
    assert ended.code in {3, 7}
    there = list((command.directory / "backups").iterdir())
    assert good in there
    # A folder that nothing came into does not stay.
    assert (len(there) == 1) == (ended.code == 3)


async def starts(command: Command, **export: Any) -> None:
    """Have the next start answer with an export that differs from the others."""
    export_id = await command.fake.add_export(**export)
    command.fake.respond(202, body={"id": export_id}, on="start")


SUSPICIOUS: dict[str, tuple[dict[str, int], str]] = {
    "empty": ({"contacts": 0}, "it is empty, and {} holds 500"),
    "much smaller": ({"contacts": 100}, "it holds 100, and {} holds 500"),
    "in doubt": (
        {"contact_count": 501},
        "SendGrid says it exported 501 contacts, and the files hold 500",
    ),
}


@pytest.mark.parametrize(("export", "doubt"), SUSPICIOUS.values(), ids=SUSPICIOUS.keys())
async def test_a_full_backup_is_not_replaced_by_less_without_a_word(
    command: Command, export: dict[str, int], doubt: str
) -> None:
    assert (await command.here("backup", "backups")).code == 0
    [full] = (command.directory / "backups").iterdir()
    # A second such night does not make it normal.
    for _ in range(2):
        await starts(command, **export)
        ended = await command.here("backup", "backups", "--keep", "1", "--quiet")
        assert ended.code == 0
        said = [line for line in ended.errors.splitlines() if "does not count" in line]
        assert len(said) == 1
        assert f"does not count as a backup: {doubt.format(full.name)}." in said[0]
    assert full.exists()
    assert len(list((command.directory / "backups").iterdir())) == 3
    # One that counts takes the only place; those that don't count take none, and stay.
    good = document(await command.here("backup", "backups", "--keep", "1", "--output", "json"))
    assert (good["counts"], good["dropped"]) == (True, [str(Path("backups") / full.name)])


async def test_a_backup_that_may_shrink_counts(command: Command) -> None:
    assert (await command.here("backup", "backups")).code == 0
    await starts(command, contacts=100)
    words = ("backup", "backups", "--keep", "1", "--quiet")
    ended = await command.here(*words, "--allow-shrink")
    assert (ended.code, ended.errors) == (0, "")
    [shrunk] = (command.directory / "backups").iterdir()
    # The next one is compared with it.
    await starts(command, contacts=60)
    ended = await command.here(*words)
    assert (ended.code, ended.errors, shrunk.exists()) == (0, "", False)
    # Whatever is printed comes as a mail of cron's.
    assert ended.output == ""


async def test_a_demonstration_displaces_no_backup(command: Command) -> None:
    backups = command.directory / "backups"
    for _ in range(2):
        assert (await command.here("backup", "backups")).code == 0
    real = set(backups.iterdir())
    for _ in range(2):
        assert (await command.here("demo", "backups", "--contacts", "10", "--files", "1")).code == 0
    ended = await command.here("backup", "backups", "--keep", "3")
    assert ended.code == 0
    assert real < set(backups.iterdir())
    assert len(list(backups.iterdir())) == 5
    # Nor is it what the newest contacts are.
    shown = await command.here("contacts", "backups")
    assert len(shown.output.splitlines()) == 500


async def test_a_demonstration_has_a_directory_of_its_own(command: Command) -> None:
    ended = await command.here("demo", "--contacts", "10", "--files", "1")
    assert ended.code == 0
    assert [path.name for path in command.directory.iterdir()] == ["demo"]


async def test_backups_of_other_contacts_displace_none(command: Command) -> None:
    backups = command.directory / "backups"
    options = [(), ("--list", "a"), ("--segment", "a"), ("--on-behalf-of", "b"), ("--json",)]
    for words in options:
        ended = await command.here("backup", "backups", "--keep", "1", *words)
        assert ended.code == 0, ended.errors
    assert len(list(backups.iterdir())) == len(options)
    for words in options:
        assert (await command.here("backup", "backups", "--keep", "1", *words)).code == 0
    assert len(list(backups.iterdir())) == len(options)


async def test_the_manifest_says_what_was_asked_for_before_the_first_poll(
    command: Command,
) -> None:
    command.fake.respond(401, on="status")
    ended = await command.here("backup", "b", "--list", "one", "--on-behalf-of", "sub", "--json")
    assert ended.code == 3
    [manifest] = command.directory.glob("b/*/*.manifest.json")
    told = json.loads(manifest.read_text())
    assert told["state"] == "pending"
    assert told["request"] == {
        "host": "127.0.0.1",
        "on_behalf_of": "sub",
        "list_ids": ["one"],
        "segment_ids": [],
        "file_type": "json",
        "demo": False,
        "allow_shrink": False,
    }


async def test_start_prints_the_id_and_nothing_else(command: Command) -> None:
    ended = await command.here("start", "--list", "one")
    [export_id] = ended.output.split()
    fetched = await command.here("fetch", export_id, "here", "--output", "json")
    assert document(fetched)["export_id"] == export_id
    assert document(await command.here("start", "--output", "json")).keys() == {"export_id"}


async def test_status_shows_where_it_stands(command: Command) -> None:
    export_id = await command.fake.add_export(statuses=["pending", "ready"])
    first = await command.here("status", export_id)
    assert re.search(r"^status +pending$", first.output, re.MULTILINE)
    second = document(await command.here("status", export_id, "--output", "json"))
    assert (second["status"], second["files"], second["contact_count"]) == ("ready", 2, 500)


async def test_status_can_wait(command: Command) -> None:
    export_id = await command.fake.add_export(statuses=["pending", "ready"])
    ended = await command.here("status", export_id, "--watch")
    assert re.search(r"^status +ready$", ended.output, re.MULTILINE)
    assert re.search(r"^Pending after \d+ s\.$", ended.errors, re.MULTILINE)


async def test_list_shows_every_export_in_one_line(command: Command) -> None:
    ids = [await command.fake.add_export(), await command.fake.add_export(statuses=["failure"])]
    ended = await command.here("list")
    head, *rows = ended.output.splitlines()
    assert head.split() == ["export", "status", "files", "created", "(UTC)", "expires", "in"]
    assert [row.split()[:3] for row in rows] == [[ids[0], "ready", "2"], [ids[1], "failure", "0"]]
    told = document(await command.here("list", "--output", "json"))
    assert [one["id"] for one in told["exports"]] == ids
    assert "http" not in json.dumps(told)


async def test_fetching_twice_asks_nobody(command: Command) -> None:
    export_id = await command.fake.add_export()
    first = await command.here("fetch", export_id, "here")
    asked = len(command.fake.requests)
    second = await command.here("fetch", export_id, "here")
    assert (first.code, second.code, second.output) == (0, 0, first.output)
    assert len(command.fake.requests) == asked


async def test_verify_reads_the_dated_folders_and_tells_what_is_wrong(command: Command) -> None:
    for _ in range(2):
        await command.here("backup", "backups")
    good = await command.here("verify", "backups")
    assert good.code == 0
    assert [row.split()[2:] for row in good.output.splitlines()[1:]] == [["2", "verified"]] * 2
    first, second = sorted((command.directory / "backups").iterdir())
    file = next(first.glob("*00001.csv.gz"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    next(second.glob("*00002.csv.gz")).unlink()
    bad = await command.here("verify", "backups", "--quiet")
    assert bad.code == 7
    assert f"changed: {first.name}/{file.name}" in bad.output
    assert f"missing: {second.name}/" in bad.output
    told = document(await command.here("verify", "backups", "--output", "json"))
    assert (told["ok"], [one["ok"] for one in told["exports"]]) == (False, [False, False])


async def test_contacts_are_json_lines_or_one_array(command: Command) -> None:
    export_id = await command.fake.add_export(contacts=7)
    rows = list(command.fake.rows_of(export_id))
    await command.here("fetch", export_id, "here")
    lines = await command.here("contacts", "here")
    assert [json.loads(line) for line in lines.output.splitlines()] == rows
    first = await command.here("contacts", "here", "--head", "2", "--output", "json")
    assert json.loads(first.output) == rows[:2]
    none = await command.here("contacts", "here", "--head", "0", "--output", "json")
    assert json.loads(none.output) == []


async def test_contacts_are_those_of_the_newest_finished_backup(command: Command) -> None:
    for _ in range(2):
        await command.here("backup", "backups")
    _, newest = sorted((command.directory / "backups").iterdir())
    ended = await command.here("contacts", "backups", "--head", "1")
    assert ended.errors == f"Reading backups/{newest.name}.\n"
    assert json.loads(ended.output)["EMAIL"]


async def test_which_export_has_to_be_said_where_there_are_several(command: Command) -> None:
    for export_id in ("one", "two"):
        await command.fake.add_export(contacts=1, export_id=export_id)
        await command.here("fetch", export_id, "here")
    ended = await command.here("contacts", "here")
    assert ended.code == 2
    assert "holds several exports. Choose one by --export: one, two." in ended.errors
    assert (await command.here("contacts", "here", "--export", "two")).code == 0
    assert (await command.here("contacts", "here", "--export", "three")).code == 2


async def test_a_broken_file_ends_the_contacts_with_its_code(command: Command) -> None:
    export_id = await command.fake.add_export(contacts=500, files=1)
    await command.here("fetch", export_id, "here")
    [file] = (command.directory / "here").glob("*.csv.gz")
    file.write_bytes(file.read_bytes()[:-20] + bytes(20))
    for options in ((), ("--output", "json")):
        ended = await command.here("contacts", "here", *options)
        assert ended.code == 7
        assert "is corrupt: " in ended.errors
        # No second document follows what has begun.
        assert '"error"' not in ended.output


async def test_contacts_become_a_parquet_file(command: Command) -> None:
    export_id = await command.fake.add_export(contacts=7)
    await command.here("fetch", export_id, "here")
    ended = await command.here("contacts", "here", "--parquet", "contacts.parquet")
    assert (ended.code, ended.output) == (0, "7 contacts in contacts.parquet\n")
    table = pyarrow.parquet.read_table(command.directory / "contacts.parquet")
    assert table.num_rows == 7
    told = document(
        await command.here("contacts", "here", "--parquet", "again.parquet", "--output", "json")
    )
    assert told == {"contacts": 7, "path": "again.parquet"}
    both = await command.here("contacts", "here", "--parquet", "x.parquet", "--head", "1")
    assert both.code == 2


async def test_without_pyarrow_it_says_what_to_install(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_id = await command.fake.add_export(contacts=7)
    await command.here("fetch", export_id, "here")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ended = await command.here("contacts", "here", "--parquet", "contacts.parquet")
    assert ended.code == 1
    assert "[arrow]'" in ended.errors
    assert not (command.directory / "contacts.parquet").exists()


async def test_compare_tells_who_came_went_and_changed(command: Command) -> None:
    header = '"CONTACT_ID","EMAIL","CITY"'
    for name, rows in {
        "monday": ['"1","a@x","Oslo"', '"2","b@x","Rome"', '"3","c@x","Bern"'],
        "tuesday": ['"2","b@x","Paris"', '"3","c@x","Bern"', '"4","d@x",'],
    }.items():
        body = "\n".join([header, *rows, ""]).encode()
        export_id = await command.fake.add_export(bodies=[body])
        await command.here("fetch", export_id, name)
    ended = await command.here("compare", "monday", "tuesday")
    assert ended.code == 0, ended.errors
    # In a pipe every line of stdout is a change; the summary is said beside it.
    assert ended.errors == "1 added, 1 removed, 1 changed, 1 unchanged\n"
    changes = {
        change["contact_id"]: change for change in map(json.loads, ended.output.split("\n")[:-1])
    }
    told = document(await command.here("compare", "monday", "tuesday", "--output", "json"))
    assert (told["added"], told["unchanged"], told["fields"]) == (1, 1, {"CITY": 1})
    by_id = {change["contact_id"]: change for change in told["changes"]}
    assert by_id == changes
    assert {key: change["kind"] for key, change in by_id.items()} == {
        "1": "removed",
        "2": "changed",
        "4": "added",
    }
    assert by_id["2"]["fields"] == {"CITY": {"old": "Rome", "new": "Paris"}}
    same = document(await command.here("compare", "monday", "monday", "--output", "json"))
    assert same["changes"] == []
    counts = await command.here("compare", "monday", "tuesday", "--head", "0")
    assert (counts.output, counts.errors) == ("", ended.errors)


async def test_the_demonstration_needs_no_key(command: Command) -> None:
    ended = await command.here(
        "demo", "shown", "--contacts", "100", "--files", "2", env={"SENDGRID_API_KEY": ""}
    )
    assert ended.code == 0, ended.errors
    assert "100 contacts in 2 files of shown/" in ended.output
    assert "Renewed 2 links." in ended.errors
    assert command.fake.requests == []
    # Its own folder: beside it there may be others, and other exports.
    [folder] = (command.directory / "shown").iterdir()
    assert f"contacts shown/{folder.name} --parquet contacts.parquet" in ended.errors


# Streams: the answer on stdout, the way to it on stderr


@pytest.mark.parametrize("options", [(), ("--verbose",), ("--quiet",)])
async def test_json_is_one_document_whatever_happens(
    command: Command, options: tuple[str, ...]
) -> None:
    export_id = await command.fake.add_export()
    command.fake.expire_links()
    command.fake.inject(EarlyEnd(after=100))
    good = await command.here("fetch", export_id, "here", "--output", "json", *options)
    told = document(good)
    assert (told["contacts"], len(told["files"])) == (500, 2)
    assert told["files"][0]["verified_by"] == ["length", "etag-md5", "gzip-crc"]
    assert (good.errors == "") == ("--quiet" in options)
    bad = await command.here("fetch", "unknown", "here", "--output", "json", *options)
    assert document(bad)["error"]["type"] == "ExportNotFoundError"
    assert document(bad)["error"]["exit_code"] == bad.code == 5
    assert ("Traceback" in bad.errors) == ("--verbose" in options)


async def test_an_encoding_that_lacks_a_letter_ends_nothing(command: Command) -> None:
    half = b'{"contact_id": "1", "email": "\\ud83d\xc3\xbc"}\n'
    export_id = await command.fake.add_export(bodies=[half], file_type="json")
    await command.here("fetch", export_id, "here")
    for encoding in ("ascii", "utf-8"):
        for words in (("contacts", "here"), ("contacts", "here", "--output", "json")):
            ended = await command.run(*words, env={"PYTHONIOENCODING": encoding})
            assert (ended.code, ended.errors) == (0, "")
            told = json.loads(ended.output)
            told = told[0] if isinstance(told, list) else told
            assert told["email"] == "\ud83dü"


async def test_quiet_says_nothing_of_a_success(command: Command) -> None:
    ended = await command.here("backup", "backups", "--quiet")
    assert (ended.code, ended.output, ended.errors) == (0, "", "")


async def test_errors_are_said_in_a_sentence(command: Command) -> None:
    ended = await command.here("fetch", "unknown", "here")
    assert ended.output == ""
    assert len(ended.errors.splitlines()) == 1
    assert "Traceback" not in ended.errors


async def test_verbose_logs_requests(command: Command) -> None:
    ended = await command.here("list", "--verbose")
    assert "sendgrid_exports.api.exports: GET /v3/marketing/contacts/exports: 200" in ended.errors


@pytest.mark.parametrize("words", [("list",), ("contacts", "here")])
async def test_a_reader_that_leaves_ends_it_like_any_program(
    command: Command, words: tuple[str, ...]
) -> None:
    for _ in range(1000):
        await command.fake.add_export(bodies=[b""])
    await command.here("fetch", await command.fake.add_export(), "here")
    line = shlex.join([*COMMAND, *command.words(words)])
    process = await asyncio.create_subprocess_shell(
        f"{{ {line}; echo $? >&2; }} | head -n 1",
        cwd=command.directory,
        env={**CLEAN, "SENDGRID_API_KEY": command.fake.api_key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert output.startswith((b"export", b'{"EMAIL"'))
    # 128 and the number of SIGPIPE, and not a word.
    assert errors == b"141\n"


# The key


async def test_the_key_comes_from_a_file_or_standard_input(command: Command) -> None:
    (command.directory / "key").write_text(f"\n{command.fake.api_key}\n")
    nothing = {"SENDGRID_API_KEY": ""}
    by_file = await command.here("list", "--api-key-file", "key", env=nothing)
    piped = await command.run(
        "list", "--api-key-file", "-", env=nothing, typed=f"{command.fake.api_key}\n"
    )
    assert (by_file.code, piped.code) == (0, 0)


async def test_the_file_comes_before_the_environment(command: Command) -> None:
    (command.directory / "key").write_text("SG.another.key")
    assert (await command.here("list", "--api-key-file", "key")).code == 3


@pytest.mark.parametrize("content", ["", "  \n", "two words"])
async def test_a_file_without_a_key_is_bad_usage(command: Command, content: str) -> None:
    (command.directory / "key").write_text(content)
    ended = await command.here("list", "--api-key-file", "key")
    assert ended.code == 2
    assert "must hold an API key and nothing else" in ended.errors
    assert "two words" not in ended.errors


async def test_without_any_key_it_says_where_to_put_one(command: Command) -> None:
    ended = await command.here("list", env={"SENDGRID_API_KEY": ""})
    assert ended.code == 2
    assert "SENDGRID_API_KEY" in ended.errors
    assert "--api-key-file" in ended.errors


# Exit codes, each at every verbosity; what was said is searched for secrets

Arrange: TypeAlias = Callable[[Command], Awaitable[tuple[str, ...]]]


def fetching(arrange: Callable[[Fake], None], **export: Any) -> Arrange:
    async def prepare(command: Command) -> tuple[str, ...]:
        export_id = await command.fake.add_export(**export)
        arrange(command.fake)
        return ("fetch", export_id, "here")

    return prepare


def typing(*words: str) -> Arrange:
    async def prepare(command: Command) -> tuple[str, ...]:
        return words

    return prepare


async def gone(command: Command) -> tuple[str, ...]:
    export_id = await command.fake.add_export()
    command.fake.remove_files(export_id)
    return ("fetch", export_id, "here")


async def under_a_file(command: Command) -> tuple[str, ...]:
    (command.directory / "file").write_text("")
    return ("backup", "file/below")


async def unwritable(command: Command) -> tuple[str, ...]:
    # A name longer than any file system takes.
    return ("fetch", await command.fake.add_export(), "x" * 300)


async def into_a_file(command: Command) -> tuple[str, ...]:
    (command.directory / "file").write_text("")
    return ("fetch", await command.fake.add_export(), "file")


def nothing(fake: Fake) -> None:
    """All is well."""


CODES: list[tuple[str, int, Arrange]] = [
    ("done", 0, fetching(nothing)),
    ("done in spite of trouble", 0, fetching(lambda fake: fake.inject(ExpiredLink()))),
    (
        "the storage refuses",
        1,
        fetching(lambda fake: fake.inject(Status(400, "InvalidArgument"), times=None)),
    ),
    ("no such option", 2, typing("fetch", "--api-key", "SG.fake-key-id.fake-key-secret")),
    ("a key as an argument", 2, typing("start", "SG.fake-key-id.fake-key-secret")),
    ("no such duration", 2, typing("fetch", "id", "here", "--timeout", "soon")),
    ("a bad url", 2, typing("list", "--base-url", "ftp://host")),
    ("no such folder", 2, typing("verify", "nowhere")),
    ("no export there", 2, typing("verify", ".")),
    ("no command", 2, typing()),
    ("401", 3, fetching(lambda fake: fake.respond(401))),
    ("403", 3, fetching(lambda fake: fake.respond(403))),
    ("failure", 4, fetching(nothing, statuses=["failure"])),
    ("no such export", 5, typing("fetch", "unknown", "here")),
    ("expired", 5, gone),
    ("a fixed bug in the file", 7, fetching(lambda f: f.inject(FlippedBit(30), times=None))),
    ("under a file", 2, under_a_file),
    ("into a file", 2, into_a_file),
    ("a name too long for the disk", 8, unwritable),
    ("an unreachable service", 9, typing("list", "--base-url", "http://127.0.0.1:1")),
]


@pytest.mark.parametrize("verbosity", ["--quiet", "--verbose"])
@pytest.mark.parametrize(("code", "arrange"), [c[1:] for c in CODES], ids=[c[0] for c in CODES])
async def test_each_exit_code(
    command: Command, code: int, arrange: Arrange, verbosity: str
) -> None:
    words = await arrange(command)
    ended = await command.here(*words, *([verbosity] if words else []))
    assert ended.code == code, ended.errors
    assert (ended.errors == "") == (code == 0 and verbosity == "--quiet")


@pytest.mark.parametrize(
    ("code", "arrange"), {code: (code, arrange) for _, code, arrange in CODES}.values()
)
async def test_each_exit_code_of_a_process(command: Command, code: int, arrange: Arrange) -> None:
    words = await arrange(command)
    ended = await command.run(*words, *(["--verbose"] if words else []))
    assert ended.code == code, ended.errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("backup", "file"), "Directory 'file' is a file."),
        (("list", "--api-key", "x"), "--api-key-file"),
        (("list", "--base-url", "ftp://host"), "(or http:// for a local server)."),
        (("contacts", ".", "--parquet", "no/p"), "There is no directory no for the Parquet file."),
        (
            ("list", "--base-url", "http://127.0.0.1:1"),
            "Check the network and base_url, or try later.",
        ),
    ],
)
async def test_what_went_wrong_is_said_in_sentences(
    command: Command, words: tuple[str, ...], said: str
) -> None:
    (command.directory / "file").write_text("")
    ended = await command.here(*words)
    assert ended.code != 0
    assert said in ended.errors


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--quiet", "list"), "--quiet goes after the command: "),
        (("--output", "json", "list"), "--output goes after the command: "),
        (("--nothing", "list"), "No such option"),
        (("fetch", "there", "5f0cf4a3"), "fetch 5f0cf4a3 there"),
        (("fetch", "new/there", "5f0cf4a3"), "fetch 5f0cf4a3 new/there"),
        (
            ("fetch", "new", "5f0cf4a3-0000-4000-8000-000000000000"),
            "fetch 5f0cf4a3-0000-4000-8000-000000000000 new",
        ),
        (("backup",), "Missing argument 'DIR'. Try: "),
    ],
)
async def test_what_stands_in_the_wrong_place_is_said_before_anything_is_asked(
    command: Command, words: tuple[str, ...], said: str
) -> None:
    (command.directory / "there").mkdir()
    ended = await command.here(*words)
    assert (ended.code, ended.output) == (2, "")
    assert said in ended.errors
    assert command.fake.requests == []


async def test_an_id_may_be_the_name_of_its_directory(command: Command) -> None:
    export_id = await command.fake.add_export()
    for _ in range(2):
        assert (await command.here("fetch", export_id, export_id)).code == 0


async def test_without_a_command_it_shows_its_help(command: Command) -> None:
    ended = await command.here()
    assert (ended.code, ended.output) == (2, "")
    assert ended.errors == (await command.here("--help")).output


async def test_the_help_has_the_defaults(command: Command) -> None:
    said = " ".join((await command.here("backup", "--help")).output.split())
    for default in ("16", "(5000)", "(all)", "https://api.sendgrid.com", "text"):
        assert f"[default: {default}" in said


async def test_an_empty_list_says_so(command: Command) -> None:
    ended = await command.here("list")
    assert (ended.code, ended.output) == (0, "")
    assert "SendGrid lists no exports." in ended.errors
    assert document(await command.here("list", "--output", "json")) == {"exports": []}


@pytest.mark.parametrize("closed", [">&-", "<&- >&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("options", ["", "--output json"])
async def test_a_closed_stream_ends_no_backup(command: Command, closed: str, options: str) -> None:
    words = shlex.join([*COMMAND, *command.words(("backup", "backups"))])
    process = await asyncio.create_subprocess_shell(
        f"{words} {options} {closed}",
        cwd=command.directory,
        env={**CLEAN, "SENDGRID_API_KEY": command.fake.api_key},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, (output, errors)
    assert (await command.here("verify", "backups")).code == 0


async def test_a_reader_of_the_progress_that_leaves_ends_no_backup(command: Command) -> None:
    process = await command.begin("backup", "backups")
    assert process.stderr is not None
    process._transport.get_pipe_transport(2).close()  # type: ignore[attr-defined]
    assert process.stdout is not None
    await process.stdout.read()
    assert await process.wait() == 0
    assert (await command.here("verify", "backups")).code == 0


NO_ROOM = Path("/dev/full")


@pytest.mark.skipif(not NO_ROOM.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("form", ["text", "json"])
async def test_no_room_for_the_answer_is_one_line_and_its_code(command: Command, form: str) -> None:
    assert (await command.here("backup", "backups")).code == 0
    for words in (("verify", "backups", "--output", form), ("--help",)):
        with NO_ROOM.open("wb") as full:
            process = await asyncio.create_subprocess_exec(
                *(*COMMAND, *command.words(words)),
                cwd=command.directory,
                env=CLEAN,
                stdout=full,
                stderr=asyncio.subprocess.PIPE,
            )
            _, errors = await process.communicate()
        assert process.returncode == 8
        assert errors == b"Disk error: No space left on device.\n"


@pytest.mark.skipif(not NO_ROOM.exists(), reason="needs /dev/full")
async def test_a_backup_needs_no_room_for_what_it_says_of_its_progress(command: Command) -> None:
    with NO_ROOM.open("wb") as full:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, *command.words(("backup", "backups", "--output", "json"))),
            cwd=command.directory,
            env={**CLEAN, "SENDGRID_API_KEY": command.fake.api_key},
            stdout=asyncio.subprocess.PIPE,
            stderr=full,
        )
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(output)["contacts"] == 500


async def test_an_argument_that_is_empty_or_endless_is_told_as_one(command: Command) -> None:
    # As of a variable that was not set.
    ended = await command.here("fetch", "", "here")
    assert (ended.code, ended.errors) == (2, "export_id must not be empty.\n")
    for words in (("backup", ""), ("backup", "", "--all-subusers"), ("fetch", "x", "")):
        ended = await command.here(*words)
        assert ended.code == 2
        assert "'DIR': it is empty" in ended.errors
    assert list(command.directory.iterdir()) == []
    ended = await command.here("fetch", "x" * 3000, "here")
    assert ended.code == 5


async def test_json_on_stdout_moves_no_cursor(command: Command) -> None:
    body = '{"contact_id": "1", "email": "\\u202e\\u009b31m‮"}\n'.encode()
    export_id = await command.fake.add_export(bodies=[body], file_type="json")
    await command.here("fetch", export_id, "here")
    ended = await command.here("contacts", "here")
    assert ended.output.rstrip("\n").isprintable()
    assert json.loads(ended.output)["email"] == "‮\x9b31m‮"


@pytest.mark.parametrize("damage", ["emptied", "missing", "manifest"])
async def test_contacts_of_a_damaged_backup_are_not_taken_for_all_of_them(
    command: Command, damage: str
) -> None:
    assert (await command.here("backup", "backups")).code == 0
    [folder] = (command.directory / "backups").iterdir()
    first = next(folder.glob("*-00001.csv.gz"))
    if damage == "emptied":
        first.write_bytes(b"")
    elif damage == "missing":
        first.unlink()
    else:
        next(folder.glob("*.manifest.json")).write_bytes(b"{")
    for words in (("contacts",), ("contacts", "--parquet", "all"), ("compare", str(folder))):
        ended = await command.here(*words, str(folder))
        assert (ended.code, ended.output) == (7, ""), ended.errors
    assert not (command.directory / "all").exists()


async def test_control_c_in_the_demonstration_leaves_nothing_behind(command: Command) -> None:
    process = await command.begin("demo", "--contacts", "1000")
    assert process.stderr is not None
    await process.stderr.readuntil(b"started.")
    process.send_signal(signal.SIGINT)
    ended = await command.end(process)
    assert ended.code == 130
    assert ended.errors.endswith("The files of the demonstration were removed.\nInterrupted.\n")
    assert list(command.directory.iterdir()) == []


async def test_the_timeout_has_its_code_and_the_line_that_goes_on(command: Command) -> None:
    export_id = await command.fake.add_export(statuses=["pending", "ready"])
    command.fake.respond(503, headers={"Retry-After": "60"}, on="status")
    ended = await command.here("fetch", export_id, "some where", "--timeout", "20s")
    assert ended.code == 6
    _, line = ended.errors.strip().rsplit("Resume with: ", 1)
    words = shlex.split(line)
    assert words[:3] == [sys.executable, "-m", "sendgrid_exports"]
    assert words[3:] == ["fetch", export_id, "some where", "--base-url", command.fake.base_url]


async def test_two_at_once_have_their_code(command: Command) -> None:
    export_id = await command.fake.add_export()
    command.fake.inject(Stall(after=100), times=None)
    first = await command.begin("fetch", export_id, "here")
    assert first.stderr is not None
    await first.stderr.readuntil(b"Ready after")
    second = await command.here("fetch", export_id, "here")
    first.kill()
    await first.communicate()
    assert second.code == 10, second.errors


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_with_what_is_durable_and_how_to_go_on(
    command: Command, number: signal.Signals
) -> None:
    command.fake.inject(Stall(after=2000), file=2, times=1)
    process = await command.begin("backup", "backups")
    assert process.stderr is not None
    heard = await process.stderr.readuntil(b"verified 00001.csv.gz")
    process.send_signal(number)
    ended = await command.end(process)
    assert ended.code == 128 + number
    assert "Interrupted. 1 of 2 files is verified." in ended.errors
    assert "Traceback" not in ended.errors
    line = ended.errors.strip().rsplit("Resume with: ", 1)[1]
    words = shlex.split(line)[3:]
    assert words[0] == "fetch"
    assert words[1] in heard.decode()
    again = await command.here(*words, "--output", "json")
    assert document(again)["contacts"] == 500


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_leaves_no_database_of_a_comparison_behind(
    command: Command, number: signal.Signals
) -> None:
    for name, start in (("old", 0), ("new", 1000)):
        export_id = await command.fake.add_export(contacts=1000, start=start)
        assert (await command.here("fetch", export_id, name)).code == 0
    spill = command.directory / "spill"
    spill.mkdir()
    # Nobody reads the changes, which are more than a pipe holds: it is in the middle of them.
    process = await command.begin("compare", "old", "new", env={"TMPDIR": str(spill)})
    assert process.stderr is not None
    await process.stderr.readuntil(b"1,000 added")
    assert list(spill.iterdir()) != []
    process.send_signal(number)
    ended = await command.end(process)
    assert ended.code == 128 + number
    assert ended.errors.endswith("Interrupted.\n")
    assert list(spill.iterdir()) == []


def test_control_c_while_modules_are_loaded_says_no_more_than_that(tmp_path: Path) -> None:
    # A module that the command loads, in place of the real one, presses the keys.
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    ended = subprocess.run(
        [sys.executable, "-m", "sendgrid_exports", "list"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Interrupted.\n")


async def test_a_killed_backup_is_told_as_unfinished_and_stays(command: Command) -> None:
    assert (await command.here("backup", "backups")).code == 0
    command.fake.inject(Stall(after=2000), file=2, times=1)
    process = await command.begin("backup", "backups")
    assert process.stderr is not None
    await process.stderr.readuntil(b"verified 00001.csv.gz")
    process.kill()
    await process.communicate()
    assert (await command.here("backup", "backups")).code == 0
    first, killed, third = sorted((command.directory / "backups").iterdir())
    told = document(await command.here("verify", "backups", "--output", "json"))
    assert [one["complete"] for one in told["exports"]] == [True, False, True]
    ended = await command.here("backup", "backups", "--keep", "2")
    where = Path("backups") / killed.name
    assert f"{where} is not counted: export {told['exports'][1]['export_id']} is" in ended.errors
    assert (first.exists(), killed.exists(), third.exists()) == (False, True, True)
    # The line that was said can be pasted.
    [line] = [line for line in ended.errors.splitlines() if " fetch " in line]
    resumed = await command.here(*shlex.split(line)[3:], "--output", "json")
    assert resumed.code == 0, (line, resumed.errors)
    assert document(resumed)["contacts"] == 500
    verified = await command.here("verify", "backups", "--quiet")
    assert verified.code == 0


async def test_an_unfinished_backup_that_expired_can_only_be_removed(command: Command) -> None:
    assert (await command.here("backup", "backups")).code == 0
    assert (await command.here("backup", "backups")).code == 0
    manifest = min(command.directory.glob("backups/*/*.manifest.json"))
    told = json.loads(manifest.read_text())
    told["state"] = "downloading"
    told["export"]["expires_at"] = "2020-01-01T00:00:00Z"
    manifest.write_text(json.dumps(told))
    ended = await command.here("backup", "backups", "--keep", "1", "--quiet")
    assert ended.errors.endswith("is unfinished and has expired. Remove the folder.\n")
    assert len(ended.errors.splitlines()) == 1


# Without the extra


async def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    for missing in ("click", "rich"):
        code = (
            f"import sys; sys.modules[{missing!r}] = None; import sendgrid_exports.__main__ as m; "
            "sys.exit(m.main())"
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert (process.returncode, output) == (1, b"")
        assert errors.decode() == (
            f"The command needs {missing}, of the extra cli, which is not installed. "
            "In a checkout: pip install '.[cli]'\n"
        )


async def test_the_library_does_not_import_what_the_command_needs() -> None:
    code = (
        "import sys, sendgrid_exports, sendgrid_exports.testing; "
        "print(sorted({'click', 'rich', 'opentelemetry'} & sys.modules.keys()))"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert output == b"[]\n"


@pytest.mark.parametrize("words", [("--help",), ("backup", "--help"), ("--version",)])
async def test_help_and_version(command: Command, words: tuple[str, ...]) -> None:
    ended = await command.here(*words)
    assert ended.code == 0
    assert ended.output
    if words == ("--help",):
        assert "130  interrupted" in ended.output
        assert '  eval "$(_SENDGRID_EXPORTS_COMPLETE=bash_source sendgrid-exports)"' in ended.output


async def test_completion_is_the_librarys(command: Command) -> None:
    ended = await command.run(env={"_SENDGRID_EXPORTS_COMPLETE": "bash_source"})
    assert ended.code == 0
    assert "complete -o nosort" in ended.output
