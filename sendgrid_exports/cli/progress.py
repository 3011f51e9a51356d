"""The events of an export, or of many accounts, on a terminal as bars, elsewhere as lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from rich import progress
from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.table import Column
from rich.text import Text

from sendgrid_exports import (
    AccountResult,
    BytesReceived,
    CountMismatch,
    Event,
    ExportStarted,
    ExportStatus,
    FileFinished,
    FileStarted,
    LinkRenewed,
    Retrying,
    RunningLate,
    StatusPolled,
)
from sendgrid_exports.cli.text import (
    count,
    duration_text,
    event_text,
    plain,
    short_name,
    status_of,
    status_text,
)

__all__ = ["AccountsProgress", "Progress"]

_FRAMES_A_SECOND = 8
_SECONDS_BETWEEN_BYTES = 5.0
_SECONDS_BETWEEN_POLLS = 30.0
# Header, status, the bar for all files, and a line for the cursor.
_LINES_BESIDE_FILES = 5
_LINES_BESIDE_ACCOUNTS = 2


class _Bars(progress.Progress):
    """Bars at the foot of a terminal, gone once they are stopped."""

    def __init__(self, *columns: progress.ProgressColumn, console: Console) -> None:
        super().__init__(
            *columns,
            console=console,
            refresh_per_second=_FRAMES_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            expand=True,
        )


class _Follower:
    """Shows what happens in a `with` block: on the bars of a table, or in lines."""

    def __init__(
        self,
        table: _Bars,
        note: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        bars: bool,
    ) -> None:
        self._table = table
        self._note = note
        self._warn = warn
        self._bars = bars

    def __enter__(self) -> Self:
        if self._bars:
            self._table.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bars:
            self._table.stop()


class Progress(_Follower):
    """Receives the events of one export, and shows them.

    Attributes:
        export_id: the export, or None while it has no id yet.
        verified: how many files are verified.
    """

    def __init__(
        self,
        console: Console,
        note: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        bars: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(_Table(console, self._header), note, warn, bars=bars)
        self.export_id: str | None = None
        self.verified = 0
        self._clock = clock
        self._began = self._said = clock()
        self._polled: StatusPolled | None = None
        self._polled_at = 0.0
        self._retries = 0
        self._renewals = 0
        self._on_disk = True
        self._received: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._received_in_all = self._size_in_all = 0
        self._tasks: dict[int, progress.TaskID] = {}
        self._all = self._table.add_task("all", total=None, visible=False)

    def __call__(self, event: Event) -> None:
        """Show what happened."""
        self.export_id = event.export_id or self.export_id
        now = self._clock()
        text: str | None = event_text(event)
        match event:
            case StatusPolled():
                text = self._poll(event, now)
            case FileStarted() | BytesReceived():
                # Of an unfinished file nothing is kept in a bucket.
                self._on_disk = event.path is not None
                self._receive(event.number, _name(event), event.size, event.received)
                late = now - self._said >= _SECONDS_BETWEEN_BYTES
                text = self.received_text() if late else None
            case FileFinished(file=file):
                # On disk it has another size where it was inflated.
                size = self._sizes.get(file.number, file.size)
                self._receive(file.number, file.name, size, size)
                self._table.remove_task(self._tasks.pop(file.number))
                self.verified += 1
            case Retrying():
                self._retries += 1
            case LinkRenewed(links=links):
                self._renewals += links
        if text is None:
            return
        serious = isinstance(event, RunningLate | CountMismatch)
        if not self._bars:
            self._said = now
            (self._warn if serious else self._note)(text)
        elif serious or isinstance(event, Retrying):
            self._table.console.print(text, style="yellow", no_wrap=True, overflow="ellipsis")

    @property
    def expected(self) -> int:
        """How many files there are, as far as is known."""
        return max(len(self._polled.export.urls) if self._polled else 0, len(self._received))

    @property
    def unfinished(self) -> int:
        """The bytes received of files that are not verified, as far as they are kept."""
        return sum(self._received[number] for number in self._tasks) if self._on_disk else 0

    def picture(self) -> RenderableType:
        """Return what stands at the foot of the terminal now."""
        return self._table.get_renderable()

    def received_text(self) -> str:
        """Return how far the download is: `12.3 MB of 45.6 MB, 27 %, 10.2 MB/s, 3 s left.`."""
        task = self._table.tasks[0]
        parts = [f"{decimal(int(task.completed))} received"]
        if task.total:
            share = int(100 * task.completed / task.total)
            parts = [f"{decimal(int(task.completed))} of {decimal(int(task.total))}, {share} %"]
        if task.speed:
            parts.append(f"{decimal(int(task.speed))}/s")
        if task.time_remaining is not None:
            parts.append(f"{duration_text(task.time_remaining)} left")
        return ", ".join(parts) + "."

    def _poll(self, event: StatusPolled, now: float) -> str | None:
        earlier = self._polled and self._polled.export.status_text
        due = earlier != event.export.status_text or now - self._said >= _SECONDS_BETWEEN_POLLS
        self._polled, self._polled_at = event, now
        return status_text(event.export, now - self._began) if due else None

    def _receive(self, number: int, name: str, size: int | None, received: int) -> None:
        if number not in self._tasks:
            self._tasks[number] = self._table.add_task("", total=size, completed=received)
        if number not in self._received and received:
            # What an earlier run received does not count as speed.
            self._table.reset(self._all, completed=self._received_in_all + received)
        self._received_in_all += received - self._received.get(number, 0)
        self._received[number] = received
        if size is not None:
            self._size_in_all += size - self._sizes.get(number, 0)
            self._sizes[number] = size
        self._table.update(
            self._tasks[number], description=short_name(name), total=size, completed=received
        )
        self._table.update(
            self._all,
            total=self._size_in_all if len(self._sizes) == self.expected else None,
            completed=self._received_in_all,
            visible=True,
        )

    def _header(self, hidden: int) -> tuple[str, str]:
        now = self._clock()
        if self._polled is None:
            head = f"Export {plain(self.export_id)}" if self.export_id else "Starting an export"
            return head, f"Waiting for {duration_text(now - self._began)}."
        export = self._polled.export
        head = f"Export {plain(export.id)}"
        if export.status is not ExportStatus.READY:
            state = f"{status_of(export)} for {duration_text(now - self._began)}"
            due = self._polled_at + (self._polled.next_poll or 0) - now
            return head, f"{state.capitalize()}, next poll in {duration_text(max(0.0, due))}."
        contacts = f", {count(export.contact_count, 'contact')}" if export.contact_count else ""
        parts = [f"{self.verified} of {count(self.expected, 'file')} verified"]
        parts += [f"{hidden} more in progress"] if hidden else []
        parts += ["1 retry" if self._retries == 1 else f"{self._retries:,} retries"]
        parts += [f"{count(self._renewals, 'link')} renewed"]
        return head + contacts, ", ".join(parts)


def _name(event: FileStarted | BytesReceived) -> str:
    return event.path.name if event.path else f"file {event.number}"


class _Speed(progress.TransferSpeedColumn):
    def render(self, task: progress.Task) -> Text:
        if task.finished and task.id:
            return Text("verifying", style="blue")
        return super().render(task) if task.speed else Text("")


class _Table(_Bars):
    def __init__(self, console: Console, header: Callable[[int], tuple[str, str]]) -> None:
        right = Column(no_wrap=True, justify="right")
        super().__init__(
            progress.TextColumn(
                "{task.description}", markup=False, table_column=Column(no_wrap=True, min_width=12)
            ),
            progress.BarColumn(bar_width=None),
            progress.DownloadColumn(table_column=right),
            _Speed(table_column=right),
            progress.TimeRemainingColumn(compact=True, table_column=right),
            console=console,
        )
        self._header = header

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the export, as many files as the screen is high, all of them, and the status."""
        if not self.tasks:
            return
        files = sorted(self.tasks[1:], key=lambda task: task.description)
        shown = files[: max(1, self.console.height - _LINES_BESIDE_FILES)]
        head, status = self._header(len(files) - len(shown))
        yield Text(head, style="bold", no_wrap=True, overflow="ellipsis")
        yield self.make_tasks_table([*shown, *self.tasks[:1]])
        # Not the bars last: a terminal writes ^C behind the last line.
        yield Text(status, style="dim", no_wrap=True, overflow="ellipsis")


class AccountsProgress(_Follower):
    """Receives the events of many accounts: a bar for all, and one for each under way."""

    def __init__(
        self,
        console: Console,
        note: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        bars: bool,
    ) -> None:
        table = _AccountsTable(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(bar_width=None),
            progress.TextColumn("{task.fields[state]}", markup=False, justify="right"),
            console=console,
        )
        super().__init__(table, note, warn, bars=bars)
        self._all = self._table.add_task("all accounts", total=None, state="listing the subusers")
        self._tasks: dict[str, progress.TaskID] = {}
        self._received: dict[str, dict[int, int]] = {}
        self._sizes: dict[str, dict[int, int]] = {}
        self._expected = self._verified = self._failed = 0

    def expect(self, accounts: int) -> None:
        """Say how many accounts there are."""
        self._expected = accounts
        self._show_all()

    def end(self, account: AccountResult) -> None:
        """Say what came of an account."""
        name = account.name
        if name in self._tasks:
            self._table.remove_task(self._tasks.pop(name))
        self._received.pop(name, None)
        self._sizes.pop(name, None)
        if account.result is None:
            self._failed += 1
            self._say(self._warn, f"{name}: {account.error}")
        else:
            self._verified += 1
            contacts = account.result.contact_count
            counted = "contacts not counted" if contacts is None else count(contacts, "contact")
            if not self._bars:
                self._say(self._note, f"{name}: {counted} verified.")
        self._show_all()

    def __call__(self, event: Event) -> None:
        """Show what happened."""
        name = str(event.account)
        if isinstance(event, RunningLate | CountMismatch):
            self._say(self._warn, event_text(event))
        if name not in self._tasks:
            self._tasks[name] = self._table.add_task(plain(name), total=None, state="")
        task = self._tasks[name]
        match event:
            case ExportStarted():
                self._table.update(task, state="started")
            case StatusPolled(export=export):
                self._table.update(task, state=status_of(export))
            case FileStarted() | BytesReceived():
                self._receive(name, event.number, event.received, event.size)
            case FileFinished(file=file):
                size = self._sizes.get(name, {}).get(file.number, file.size)
                self._receive(name, file.number, size, size)

    def _receive(self, name: str, number: int, received: int, size: int | None) -> None:
        all_received = self._received.setdefault(name, {})
        all_sizes = self._sizes.setdefault(name, {})
        all_received[number] = received
        if size is not None:
            all_sizes[number] = size
        total, done = sum(all_sizes.values()), sum(all_received.values())
        state = decimal(done) if done < total else "verifying"
        self._table.update(self._tasks[name], total=total or None, completed=done, state=state)

    def _show_all(self) -> None:
        ended = self._verified + self._failed
        failed = f", {self._failed:,} failed" if self._failed else ""
        state = f"{self._verified:,} of {self._expected:,} verified{failed}"
        self._table.update(self._all, total=self._expected, completed=ended, state=state)

    def _say(self, say: Callable[[str], None], text: str) -> None:
        if self._bars:
            style = "yellow" if say == self._warn else ""
            self._table.console.print(
                plain(text), style=style, markup=False, no_wrap=True, overflow="ellipsis"
            )
        else:
            say(plain(text))


class _AccountsTable(_Bars):
    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield as many accounts as the screen is high, and all of them in the last line."""
        if not self.tasks:
            return
        shown = self.tasks[1 : max(2, self.console.height - _LINES_BESIDE_ACCOUNTS)]
        yield self.make_tasks_table([*shown, self.tasks[0]])
