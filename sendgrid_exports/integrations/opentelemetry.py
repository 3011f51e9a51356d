"""Spans and metrics of an export, made of its events; needs the extra `opentelemetry`.

    with traced() as on_event:
        result = await client.fetch(export_id, "exports", on_event=on_event)

A span `sendgrid.export` lasts as long as the block, and has one `sendgrid.export.file` below it
for each file. Names follow https://opentelemetry.io/docs/specs/semconv/general/naming/:

| metric, a counter | unit | |
|---|---|---|
| `sendgrid.export.received` | `By` | bytes of files that arrived |
| `sendgrid.export.polls` | `{poll}` | polls of the status that succeeded |
| `sendgrid.export.retries` | `{retry}` | attempts that failed, by `sendgrid.export.retry.target` |
| `sendgrid.export.renewals` | `{link}` | links renewed |

Metrics carry no id, as every export has another one; spans do. Neither carries a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, Status, StatusCode, Tracer

from sendgrid_exports import (
    BytesReceived,
    CountMismatch,
    Event,
    ExportStatus,
    FileFinished,
    FileStarted,
    LinkRenewed,
    Retrying,
    RunningLate,
    StatusPolled,
    __version__,
)

__all__ = ["traced"]

_SCOPE = "sendgrid_exports"


@contextmanager
def traced(
    on_event: Callable[[Event], None] | None = None,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> Iterator[Callable[[Event], None]]:
    """Trace one export while the block runs; pass what is yielded as `on_event`.

    Args:
        on_event: your own listener, which receives every event afterwards.
        tracer_provider: where spans go; None: where the program's other spans go.
        meter_provider: where metrics go; None: where the program's other metrics go.
    """
    tracer = trace.get_tracer(_SCOPE, __version__, tracer_provider)
    meter = metrics.get_meter(_SCOPE, __version__, meter_provider)
    span = tracer.start_span("sendgrid.export")
    listener = _Listener(tracer, meter, span)

    def tell(event: Event) -> None:
        listener.tell(event)
        if on_event is not None:
            on_event(event)

    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield tell
    except BaseException as error:
        # A cancelled export is one that failed, too.
        listener.close(error)
        raise
    listener.close(None)


class _Listener:
    def __init__(self, tracer: Tracer, meter: metrics.Meter, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        # By their number: a file's ending is known for sure once its first bytes are.
        self._files: dict[int, Span] = {}
        self._received: dict[int, int] = {}
        self._sizes: dict[int, int] = {}
        self._bytes = meter.create_counter(
            "sendgrid.export.received", unit="By", description="Bytes of files that arrived."
        )
        self._polls = meter.create_counter(
            "sendgrid.export.polls", unit="{poll}", description="Polls that succeeded."
        )
        self._retries = meter.create_counter(
            "sendgrid.export.retries", unit="{retry}", description="Attempts that failed."
        )
        self._renewals = meter.create_counter(
            "sendgrid.export.renewals", unit="{link}", description="Links renewed."
        )

    def tell(self, event: Event) -> None:
        """Add an event to the spans and the metrics."""
        if event.export_id is not None:
            self._span.set_attribute("sendgrid.export.id", event.export_id)
        match event:
            case StatusPolled(export=export):
                self._polls.add(1)
                self._span.set_attribute("sendgrid.export.status", export.status.value)
                if export.status is ExportStatus.READY:
                    self._span.set_attribute("sendgrid.export.files", len(export.urls))
                    if export.contact_count is not None:
                        self._span.set_attribute("sendgrid.export.contacts", export.contact_count)
            case FileStarted(number=number, path=path, size=size, received=received):
                # What an earlier run left on disk does not arrive again.
                self._received[number] = received
                self._file(number, path, size)
            case BytesReceived(number=number, path=path, received=received, size=size):
                self._file(number, path, size)
                self._receive(number, received)
            case FileFinished(file=file):
                # On disk it may be larger: what the storage announced is what arrived.
                self._receive(file.number, self._sizes.get(file.number, file.size))
                span = self._file(file.number, file.path, file.size)
                span.set_attribute("sendgrid.export.file.verified_by", file.verified_by)
                self._files.pop(file.number).end()
            case Retrying(number=number, reason=reason, delay=delay):
                self._retry(number, reason, delay)
            case LinkRenewed(links=links):
                self._renewals.add(links)
                self._span.add_event("links renewed", {"sendgrid.export.links": links})
            case RunningLate() | CountMismatch():
                self._span.add_event(type(event).__name__)

    def close(self, error: BaseException | None) -> None:
        """End every span; after an error, those that are open carry it."""
        for span in (*self._files.values(), self._span):
            if error is not None:
                span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__name__}")
                span.set_status(Status(StatusCode.ERROR, str(error)))
            span.end()

    def _file(self, number: int, path: Path | None, size: int | None) -> Span:
        if number not in self._files:
            within = trace.set_span_in_context(self._span)
            self._files[number] = self._tracer.start_span("sendgrid.export.file", context=within)
        span = self._files[number]
        if path is not None:
            span.set_attributes({"file.name": path.name, "file.path": str(path)})
        if size is not None:
            self._sizes.setdefault(number, size)
            span.set_attribute("file.size", size)
        return span

    def _receive(self, number: int, received: int) -> None:
        # A file that starts over comes again from its first byte.
        arrived = received - self._received.get(number, 0)
        self._received[number] = received
        self._bytes.add(arrived if arrived >= 0 else received)

    def _retry(self, number: int | None, reason: str, delay: float) -> None:
        target = "api" if number is None else "storage"
        self._retries.add(1, {"sendgrid.export.retry.target": target})
        span = self._span if number is None else self._files.get(number, self._span)
        span.add_event("retry", {"exception.message": reason, "sendgrid.export.retry.delay": delay})
