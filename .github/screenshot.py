"""Draw the README's picture of the progress display, from a real run of the demonstration.

nox -s screenshot
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from pathlib import Path

from rich.console import Console

from sendgrid_exports import Event
from sendgrid_exports.cli.demo import back_up
from sendgrid_exports.cli.live import Screen

TARGET = Path(__file__).with_name("progress.svg")
COLUMNS = 88


async def main() -> None:
    """Run the demonstration, and keep what the terminal shows once a file is verified."""
    console = Console(
        file=io.StringIO(),
        record=True,
        force_terminal=True,
        highlight=False,
        width=COLUMNS,
        height=24,
        _environ={},
    )
    console.print("[bold]$ sendgrid-exports demo --files 6[/bold]")
    screen = Screen(console)
    drawn = False

    def on_event(event: Event) -> None:
        nonlocal drawn
        if drawn:
            return
        screen(event)
        board = screen.board
        if board.verified and board.size:
            drawn = True
            console.print(screen.picture())

    with tempfile.TemporaryDirectory() as folder:
        await back_up(Path(folder), 100_000, 6, on_event)
    TARGET.write_text(console.export_svg(title="sendgrid-exports"))


asyncio.run(main())
