"""SendGrid contact exports in Apache Airflow 3.1 and later; needs the extra `airflow`.

    SendGridExportOperator(task_id="export", target="s3://lake/sendgrid/{{ ds }}")

The operator starts an export, waits for it in the triggerer, and downloads it in a worker. The
export's id belongs to the task instance: a retry resumes the export of the try before. It is kept
in the task's state store (Airflow 3.3 and later), otherwise in a file or an object in the target. A
run that is cleared after it succeeded starts another export.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    Asset,
    AssetAlias,
    BaseHook,
    BaseOperator,
    conf,
)
from airflow.triggers.base import BaseTrigger, TriggerEvent

from sendgrid_exports import (
    DownloadResult,
    ExportClient,
    ExportStatus,
    SystemClock,
)
from sendgrid_exports.integrations.airflow_claim import Claim, find_or_start
from sendgrid_exports.integrations.airflow_connection import (
    ERRORS,
    SendGridHook,
    is_final,
    shared_client,
)

__all__ = ["SendGridExportOperator", "SendGridExportTrigger", "SendGridHook"]

T = TypeVar("T")

# Our own message, which names the export, arrives before Airflow's.
_TRIGGER_GRACE = timedelta(minutes=1)


class SendGridExportTrigger(BaseTrigger):
    """Polls one export until it is ready; the worker downloads it.

    Args:
        export_id: the export.
        deadline: when to give up, in seconds of the epoch, or None: as `PollPolicy` says.
        sendgrid_conn_id: the connection.
        on_behalf_of: as for `SendGridHook`.
    """

    def __init__(
        self,
        export_id: str,
        deadline: float | None,
        sendgrid_conn_id: str,
        on_behalf_of: str | None = None,
    ) -> None:
        super().__init__()
        self.export_id = export_id
        self.deadline = deadline
        self.sendgrid_conn_id = sendgrid_conn_id
        self.on_behalf_of = on_behalf_of

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what makes the same trigger in another process."""
        names = ("export_id", "deadline", "sendgrid_conn_id", "on_behalf_of")
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", {n: getattr(self, n) for n in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: `status` is ready, failed (do not retry) or error; `id`; `message`."""
        try:
            connection = await BaseHook.aget_connection(self.sendgrid_conn_id)
            async with shared_client(connection, self.on_behalf_of) as client:
                await client.wait(self.export_id, timeout=_left(self.deadline))
        except ERRORS as error:
            status, message = "failed" if is_final(error) else "error", str(error)
        else:
            status, message = "ready", f"Export {self.export_id} is ready."
        yield TriggerEvent({"status": status, "id": self.export_id, "message": message})


class SendGridExportOperator(BaseOperator):
    """Starts an export, waits for it, and downloads its files, complete and verified.

    Args:
        target: the directory, or the url of the prefix in a bucket, that the files go to.
        list_ids: the lists to export; with no list and no segment, every contact.
        segment_ids: the segments to export.
        file_type: `csv` or `json`.
        max_file_size: megabytes above which the export is split.
        deferrable: wait in the triggerer; by default as Airflow's configuration says.
        sendgrid_conn_id: the connection, of the type `sendgrid`.
        on_behalf_of: the subuser to act for; `expand(on_behalf_of=[…])` exports many.

    Returns:
        `{"id": …, "target": …, "files": [{"url": …, "size": …, "sha256": …}], "contacts": …}`.
    """

    template_fields: Sequence[str] = (
        *("target", "list_ids", "segment_ids", "sendgrid_conn_id", "on_behalf_of"),
    )
    ui_color = "#d9ecf7"

    def __init__(
        self,
        *,
        target: str,
        list_ids: Sequence[str] = (),
        segment_ids: Sequence[str] = (),
        file_type: Literal["csv", "json"] = "csv",
        max_file_size: int | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        sendgrid_conn_id: str = SendGridHook.default_conn_name,
        on_behalf_of: str | None = None,
        **kwargs: Any,
    ) -> None:
        # Which asset a template makes is known when it is rendered.
        text = str(target)
        is_template = "{{" in text or "{%" in text
        outlet = AssetAlias(name=text) if is_template else Asset(uri=_uri(text))
        super().__init__(**{"outlets": [outlet], **kwargs})
        self.target = target
        self.list_ids = list_ids
        self.segment_ids = segment_ids
        self.file_type = file_type
        self.max_file_size = max_file_size
        self.deferrable = deferrable
        self.sendgrid_conn_id = sendgrid_conn_id
        self.on_behalf_of = on_behalf_of
        self._claim: Claim | None = None
        self._api_host = ""
        self._result: DownloadResult | None = None
        self._cancel: Callable[[], object] | None = None
        self._is_killed = False

    def execute(self, context: Any) -> dict[str, Any]:
        """Start or resume the export; then defer, or wait and download.

        Raises:
            AirflowFailException: it failed, or needs another key or other arguments.
            SendGridExportsError, OSError: another try may succeed.
        """
        limit = self.execution_timeout
        bounds = [] if limit is None else [_now() + limit]
        claim = self._claim = Claim(context, self.target)
        export_id, export = self._run(
            lambda client: find_or_start(
                client,
                claim,
                list_ids=self.list_ids,
                segment_ids=self.segment_ids,
                file_type=self.file_type,
                max_file_size=self.max_file_size,
            )
        )
        if export is not None and export.expires_at is not None:
            bounds.append(export.expires_at)
        deadline = min(bounds).timestamp() if bounds else None
        if self.deferrable and (export is None or export.status is ExportStatus.PENDING):
            left = _left(deadline)
            self.defer(
                trigger=SendGridExportTrigger(
                    export_id, deadline, self.sendgrid_conn_id, self.on_behalf_of
                ),
                method_name="execute_complete",
                kwargs={"deadline": deadline},
                timeout=None if left is None else timedelta(seconds=left) + _TRIGGER_GRACE,
            )
        return self._download(context, export_id, deadline)

    def execute_complete(
        self, context: Any, event: dict[str, str], deadline: float | None = None
    ) -> dict[str, Any]:
        """Download the export that the trigger saw ready.

        Raises:
            What `execute` raises.
        """
        if event["status"] == "failed":
            raise AirflowFailException(event["message"])
        if event["status"] != "ready":
            raise AirflowException(event["message"])
        return self._download(context, event["id"], deadline)

    def on_kill(self) -> None:
        """Stop what this process does; the export itself can't be stopped."""
        if self._claim is not None and (export_id := self._claim.known.get("id")):
            self.log.warning(
                "Export %s continues at SendGrid; the next try of this task resumes it.", export_id
            )
        self._is_killed = True
        if self._cancel is not None:
            self._cancel()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return where the contacts came from and went to; called where OpenLineage is."""
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import InputDataset, OutputDataset
        from openlineage.client.facet_v2 import output_statistics_output_dataset

        if (result := self._result) is None:
            return OperatorLineage()
        contacts = InputDataset(namespace=f"sendgrid://{self._api_host}", name="contacts")
        uri = urlsplit(_uri(self.target))
        host = uri.netloc.rpartition("@")[2]
        statistics = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=result.contact_count,
            size=sum(file.size for file in result.files),
            fileCount=len(result.files),
        )
        files = OutputDataset(
            namespace=f"{uri.scheme}://{host}" if host else uri.scheme,
            name=uri.path.strip("/") if host else uri.path,
            outputFacets={"outputStatistics": statistics},
        )
        return OperatorLineage(inputs=[contacts], outputs=[files])

    def _run(self, work: Callable[[ExportClient], Awaitable[T]]) -> T:
        async def run(client: ExportClient) -> T:
            task, loop = asyncio.current_task(), asyncio.get_running_loop()
            assert task is not None
            # A handler of signals may call it, at any moment.
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._is_killed:
                task.cancel()
            try:
                async with client:
                    return await work(client)
            finally:
                self._cancel = None

        try:
            hook = SendGridHook(self.sendgrid_conn_id, self.on_behalf_of)
            arguments = hook.get_arguments()
            client = ExportClient(**arguments)
            self._api_host = urlsplit(arguments["base_url"]).netloc
            return asyncio.run(run(client))
        except ERRORS as error:
            if is_final(error):
                raise AirflowFailException(str(error)) from error
            raise

    def _download(self, context: Any, export_id: str, deadline: float | None) -> dict[str, Any]:
        claim = self._claim = Claim(context, self.target)
        result = self._result = self._run(
            lambda client: client.fetch(export_id, self.target, timeout=_left(deadline))
        )
        summary = {"id": export_id, "contacts": result.contact_count}
        for outlet in self.outlets:
            if isinstance(outlet, AssetAlias):
                context["outlet_events"][outlet].add(Asset(uri=_uri(self.target)), extra=summary)
            elif isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra = summary
        claim.keep({**claim.known, "id": export_id, "done": context["ti"].max_tries})
        files = [{"url": f.url, "size": f.size, "sha256": f.sha256} for f in result.files]
        return {**summary, "target": self.target, "files": files}


def _uri(target: str) -> str:
    return target if "://" in target else Path(target).absolute().as_uri()


def _now() -> datetime:
    return SystemClock().utc()


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - _now().timestamp())
