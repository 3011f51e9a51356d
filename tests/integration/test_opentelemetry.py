"""Spans and metrics of real downloads, in the SDK's memory."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from sendgrid_exports import (
    CorruptDownloadError,
    DownloadPolicy,
    Event,
    ExportFailedError,
    FileFinished,
)
from sendgrid_exports.integrations.opentelemetry import traced
from sendgrid_exports.testing import EarlyEnd, ExpiredLink, FlippedBit
from tests.integration.conftest import MakeClient, MakeFake


@attrs.frozen
class Memory:
    """What was exported, and the arguments that let it come here."""

    spans: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracer_provider: TracerProvider
    meter_provider: MeterProvider

    @property
    def providers(self) -> dict[str, Any]:
        return {"tracer_provider": self.tracer_provider, "meter_provider": self.meter_provider}

    def job(self) -> ReadableSpan:
        [span] = [one for one in self.spans.get_finished_spans() if one.name == "sendgrid.export"]
        return span

    def files(self) -> list[ReadableSpan]:
        spans = self.spans.get_finished_spans()
        return [span for span in spans if span.name == "sendgrid.export.file"]

    def metrics(self) -> dict[str, Any]:
        """Return the unit and the points of every metric."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: (
                metric.unit,
                [(dict(point.attributes or {}), point.value) for point in metric.data.data_points],  # type: ignore[union-attr]
            )
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def memory() -> Iterator[Memory]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider(metric_readers=[reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    yield Memory(exporter, reader, tracers, meters)
    tracers.shutdown()
    meters.shutdown()


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def told(spans: Sequence[ReadableSpan]) -> str:
    return "".join(span.to_json() for span in spans)


async def test_a_download_is_a_span_with_one_for_each_file(
    make_fake: MakeFake, make_client: MakeClient, memory: Memory, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=100, files=2, statuses=["pending", "ready"])
    client = make_client(fake)
    export_id = await fake.add_export(statuses=["pending", "ready"])
    fake.inject(EarlyEnd(after=50), file=1)
    fake.inject(ExpiredLink(), file=2)
    fake.respond(503, on="status")
    heard: list[Event] = []
    with traced(heard.append, **memory.providers) as on_event:
        result = await client.fetch(export_id, tmp_path, on_event=on_event)
    job, files = memory.job(), memory.files()
    assert attributes(job)["sendgrid.export.id"] == export_id
    assert attributes(job)["sendgrid.export.contacts"] == 100
    assert attributes(job)["sendgrid.export.files"] == 2
    assert job.status.status_code is StatusCode.UNSET
    assert job.context is not None
    assert [span.parent and span.parent.span_id for span in files] == [job.context.span_id] * 2
    assert {attributes(span)["file.path"] for span in files} == {
        str(file.path) for file in result.files
    }
    assert all(attributes(span)["sendgrid.export.file.verified_by"] for span in files)
    # Their own listener is told as well.
    assert len([event for event in heard if isinstance(event, FileFinished)]) == 2
    metrics = memory.metrics()
    size = sum(file.size for file in result.files)
    assert metrics["sendgrid.export.received"] == ("By", [({}, size)])
    looks = len([one for one in fake.api_requests if one.method == "GET"])
    assert metrics["sendgrid.export.polls"] == ("{poll}", [({}, looks - 1)])
    assert metrics["sendgrid.export.renewals"] == ("{link}", [({}, 2)])
    target = "sendgrid.export.retry.target"
    unit, points = metrics["sendgrid.export.retries"]
    assert unit == "{retry}"
    assert sorted(points, key=str) == [({target: "api"}, 1), ({target: "storage"}, 1)]


async def test_the_span_is_the_current_one_for_what_is_called_inside(memory: Memory) -> None:
    with traced(**memory.providers):
        inside = trace.get_current_span()
    job = memory.job()
    assert job.context == inside.get_span_context()
    assert trace.get_current_span() is not inside


async def test_what_was_on_disk_before_did_not_arrive(
    make_fake: MakeFake, make_client: MakeClient, memory: Memory, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=10)
    client = make_client(fake)
    export_id = await fake.add_export()
    await client.fetch(export_id, tmp_path)
    with traced(**memory.providers) as on_event:
        await client.fetch(export_id, tmp_path, on_event=on_event)
    assert memory.files() == []
    assert memory.reader.get_metrics_data() is None


async def test_an_inflated_file_counts_as_it_came(
    make_fake: MakeFake, make_client: MakeClient, memory: Memory, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=100)
    client = make_client(fake, downloads=DownloadPolicy(decompress=True))
    export_id = await fake.add_export()
    with traced(**memory.providers) as on_event:
        await client.fetch(export_id, tmp_path, on_event=on_event)
    [raw] = await fake.file_bytes(export_id)
    assert memory.metrics()["sendgrid.export.received"] == ("By", [({}, len(raw))])


async def test_an_error_is_on_the_spans_that_are_open(
    make_fake: MakeFake, make_client: MakeClient, memory: Memory, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=10)
    client = make_client(fake)
    export_id = await fake.add_export()
    fake.inject(FlippedBit(at=30), times=None)
    with pytest.raises(CorruptDownloadError) as caught, traced(**memory.providers) as on_event:
        await client.fetch(export_id, tmp_path, on_event=on_event)
    for span in (memory.job(), *memory.files()):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == str(caught.value)
        assert attributes(span)["error.type"] == "sendgrid_exports.errors.CorruptDownloadError"
    assert len(memory.files()) == 1


async def test_no_secret_is_in_a_span(
    make_fake: MakeFake, make_client: MakeClient, memory: Memory, tmp_path: Path
) -> None:
    fake = await make_fake(contacts=10)
    client = make_client(fake)
    export_id = await fake.add_export(statuses=["failure"])
    fake.respond(500, body=f"what is {fake.api_key}?")
    with pytest.raises(ExportFailedError) as caught, traced(**memory.providers) as on_event:
        await client.fetch(export_id, tmp_path, on_event=on_event)
    said = told(memory.spans.get_finished_spans()) + "".join(
        traceback.format_exception(caught.value)
    )
    assert "retry" in said
    assert fake.api_key not in said
