"""Draw the README's picture of the command: run it on a terminal of 88 columns, keep what is left.

nox -s screenshot -- demo --files 6
"""

from __future__ import annotations

import io
import os
import pty
import re
import sys
import tempfile
import termios
from itertools import groupby
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

TARGET = Path(__file__).with_name("progress.svg")
COLUMNS, LINES = 88, 24


def run(arguments: list[str]) -> list[Text]:
    """Run the command in a directory of its own; return the lines of its terminal at the end."""
    screen = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    with tempfile.TemporaryDirectory() as directory:
        child, terminal = pty.fork()
        if not child:
            os.chdir(directory)
            scripts = Path(sys.executable).parent
            path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
            environment = {**os.environ, "PATH": path, "TERM": "xterm-256color"}
            os.execvpe("sendgrid-exports", ["sendgrid-exports", *arguments], environment)  # noqa: S606, S607
        termios.tcsetwinsize(terminal, (LINES, COLUMNS))
        try:
            while data := os.read(terminal, 65536):
                stream.feed(data)
        except OSError:
            pass  # Linux ends the output of a pseudo terminal with EIO.
        os.waitpid(child, 0)
    return [styled(screen, line) for line in range(LINES) if screen.display[line].strip()]


def styled(screen: pyte.Screen, line: int) -> Text:
    """Return a line of the terminal with its colours."""
    cells = [screen.buffer[line][column] for column in range(COLUMNS)]
    runs = groupby(cells, lambda cell: ("bold " if cell.bold else "") + colour_of(cell.fg))
    text = Text.assemble(*(("".join(cell.data for cell in run), style) for style, run in runs))
    text.rstrip()
    return text


def colour_of(name: str) -> str:
    """Return rich's name of a colour of pyte: a name, or six hexadecimal digits."""
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return {"brown": "yellow"}.get(name, name.replace("bright", "bright_"))


def main() -> None:
    """Write the picture."""
    arguments = sys.argv[1:] or ["demo", "--files", "6"]
    console = Console(file=io.StringIO(), record=True, force_terminal=True, width=COLUMNS)
    console.print(f"[bold]$ sendgrid-exports {' '.join(arguments)}[/bold]", highlight=False)
    for line in run(arguments):
        console.print(line)
    TARGET.write_text(console.export_svg(title="sendgrid-exports"))


if __name__ == "__main__":
    main()
