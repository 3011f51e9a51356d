"""The command on a real terminal: a pseudo-terminal of 80 or 200 columns."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from sendgrid_exports.testing import EarlyEnd, FakeSendGrid, Stall
from tests.integration.command import CLEAN, COMMAND, Command

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

import fcntl
import termios

# Cursor up, line erased, and so on; and colours, which the others must not hide.
MOVES = re.compile(r"\x1b\[\??[\d;]*[A-Za-ln-z]")
COLOURS = re.compile(r"\x1b\[[\d;]*m")
CONTROL_C = b"\x03"


@pytest.fixture
async def fake() -> AsyncIterator[FakeSendGrid]:
    async with FakeSendGrid(contacts=500, files=2, statuses=["ready"]) as fake:
        yield fake


@pytest.fixture
def command(fake: FakeSendGrid, tmp_path: Path) -> Command:
    return Command(fake, tmp_path)


class Terminal:
    """A terminal of a size, on which one command runs."""

    def __init__(self, command: Command, columns: int = 80, **env: str) -> None:
        self.command = command
        self.columns = columns
        self.env = {"TERM": "xterm-256color", "SENDGRID_API_KEY": command.fake.api_key, **env}

    async def run(self, *words: str, react: Callable[[str], bytes] = lambda said: b"") -> str:
        """Run a command, type what `react` returns for what was said, and return all of it."""
        self.code, said = await asyncio.to_thread(self._run, words, react)
        self.command.hear(said)
        return said

    def _run(self, words: tuple[str, ...], react: Callable[[str], bytes]) -> tuple[int, str]:
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self.columns, 0, 0))
        process = subprocess.Popen(
            [*COMMAND, *self.command.words(words)],
            cwd=self.command.directory,
            env={**CLEAN, **self.env},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        said = b""
        try:
            while data := _read(master):
                said += data
                if typed := react(said.decode("utf-8", "replace")):
                    os.write(master, typed)
        finally:
            process.wait()
            os.close(master)
        return process.returncode, said.decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError as error:
        # So Linux tells that nobody has the terminal open any more.
        if error.errno != errno.EIO:
            raise
        return b""


def lines(said: str) -> list[str]:
    """Return every line that ever stood on the screen, without colours."""
    return [part for part in re.split(r"[\r\n]+", COLOURS.sub("", MOVES.sub("\n", said))) if part]


def once(trigger: str, typed: bytes, *, line: str = "") -> Callable[[str], bytes]:
    """Return a reaction that types when `trigger` was said, and a line as `line`, once."""
    left = [typed]

    def react(said: str) -> bytes:
        due = left and trigger in said and any(re.search(line, one) for one in lines(said))
        return left.pop() if due else b""

    return react


@pytest.mark.parametrize("columns", [80, 200])
async def test_a_terminal_shows_what_came_and_nothing_wraps(command: Command, columns: int) -> None:
    command.fake.inject(EarlyEnd(after=100))
    terminal = Terminal(command, columns)
    said = await terminal.run("backup", "backups")
    assert terminal.code == 0, said
    shown = lines(said)
    # One column more, and the terminal itself would break the line.
    assert max(map(len, shown)) <= columns
    assert any(line.startswith("all ") for line in shown)
    assert any("Retrying 0000" in line for line in shown)
    assert "500 contacts in 2 files of backups/" in shown[-1]
    assert "00001.csv.gz" in "".join(shown[-3:])
    # The cursor is hidden while bars are drawn, and comes back.
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l") > -1


async def test_sixty_files_stay_within_the_screen(command: Command) -> None:
    export_id = await command.fake.add_export(contacts=60, files=60)
    terminal = Terminal(command)
    said = await terminal.run("fetch", export_id, "here")
    assert terminal.code == 0, said
    # No picture moves the cursor further up than the screen is high.
    ups = [len(re.findall(r"\x1b\[1A", part)) for part in said.split("\n")]
    assert 0 < max(ups) < 24
    assert any("60 files verified" in line for line in lines(said))


async def test_no_color_means_no_color(command: Command) -> None:
    export_id = await command.fake.add_export()
    coloured = await Terminal(command).run("fetch", export_id, "a")
    plain = await Terminal(command, NO_COLOR="1").run("fetch", export_id, "b")
    colour = re.compile(r"\x1b\[[\d;]*(3[0-7]|9[0-7]|38;)[\d;]*m")
    assert colour.search(coloured)
    assert not colour.search(plain)


async def test_a_dumb_terminal_gets_lines(command: Command) -> None:
    terminal = Terminal(command, TERM="dumb")
    said = await terminal.run("backup", "backups")
    assert terminal.code == 0, said
    assert "\x1b" not in said
    assert "Ready after " in said
    assert "verified 00001.csv.gz" in said


@pytest.mark.parametrize("columns", [80, 200])
async def test_bars_and_after_control_c_the_line_that_goes_on(
    command: Command, columns: int
) -> None:
    command.fake.inject(Stall(after=2000), file=2, times=1)
    terminal = Terminal(command, columns)
    # The bytes of a stalled file are drawn a moment after they came.
    react = once("1 of 2 files verified", CONTROL_C, line=r"^00002\.csv\.gz +━.*/")
    said = await terminal.run("backup", "backups", react=react)
    assert terminal.code == 130
    drawn, _, _ = said.partition("Interrupted.")
    assert max(map(len, lines(drawn))) <= columns
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l")
    told = " ".join(lines(said)[-6:])
    assert "Interrupted. 1 of 2 files is verified." in told
    assert "Resume with: " in told
    assert "Traceback" not in said


async def test_the_key_is_asked_for_and_not_shown(command: Command) -> None:
    terminal = Terminal(command, SENDGRID_API_KEY="")
    key = command.fake.api_key.encode()
    said = await terminal.run("list", react=once("API key: ", key + b"\n"))
    assert terminal.code == 0, said
    assert command.fake.requests[-1].headers["authorization"] == f"Bearer {command.fake.api_key}"


async def test_control_c_at_the_prompt_is_an_interruption(command: Command) -> None:
    terminal = Terminal(command, SENDGRID_API_KEY="")
    said = await terminal.run("list", react=once("API key: ", CONTROL_C))
    assert terminal.code == 130
    assert "Interrupted." in said


@pytest.mark.parametrize("columns", [80, 200])
async def test_the_first_contacts_are_a_table_that_fits(command: Command, columns: int) -> None:
    export_id = await command.fake.add_export(contacts=20)
    await command.here("fetch", export_id, "here")
    said = await Terminal(command, columns).run("contacts", "here", "--head", "20")
    head, *rows = lines(said)
    assert head.startswith("EMAIL")
    assert len(rows) == 20
    assert max(map(cell_len, lines(said))) <= columns


@pytest.mark.parametrize("columns", [80, 200])
async def test_the_list_keeps_its_ids_whole(command: Command, columns: int) -> None:
    export_id = await command.fake.add_export()
    said = await Terminal(command, columns).run("list")
    assert max(map(len, lines(said))) <= columns
    [row] = [line for line in lines(said) if line.startswith(export_id)]
    assert row.split()[1:3] == ["ready", "2"]


async def test_a_terminal_shows_the_first_changes_and_how_many_more_there_are(
    command: Command,
) -> None:
    for name, contacts in (("old", 0), ("new", 500)):
        export_id = await command.fake.add_export(contacts=contacts, files=1)
        await command.here("fetch", export_id, name)
    terminal = Terminal(command)
    summary, *changes, more = lines(await terminal.run("compare", "old", "new"))
    assert terminal.code == 0
    assert summary == "500 added, 0 removed, 0 changed, 0 unchanged"
    assert len(changes) == 20
    assert all(change.startswith("added ") for change in changes)
    assert max(map(cell_len, changes)) <= 80
    assert more.startswith("and 480 more: ")
    assert len(lines(await terminal.run("compare", "old", "new", "--head", "500"))) == 501
