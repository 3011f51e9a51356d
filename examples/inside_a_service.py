"""An aiohttp web service that backs up contacts in the background and answers with its progress.

    python examples/inside_a_service.py [PORT]
    curl -X POST http://127.0.0.1:8080/backups
    curl http://127.0.0.1:8080/backups/EXPORT_ID

The client borrows the service's own session and never closes it. With SENDGRID_API_KEY in the
environment it asks SendGrid; without, a server like SendGrid that runs inside this program.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import web

from sendgrid_exports import DownloadResult, Event, ExportClient, SendGridExportsError
from sendgrid_exports.testing import FakeSendGrid

CLIENT = web.AppKey("CLIENT", ExportClient)
TASKS = web.AppKey("TASKS", dict[str, asyncio.Task[DownloadResult]])
PROGRESS = web.AppKey("PROGRESS", dict[str, str])


async def start(request: web.Request) -> web.Response:
    """POST /backups: start an export and download it in the background."""
    app = request.app
    try:
        export_id = await app[CLIENT].start()
    except SendGridExportsError as error:
        return web.json_response({"error": str(error)}, status=502)

    def note(event: Event) -> None:
        app[PROGRESS][export_id] = str(event)

    download = app[CLIENT].fetch(export_id, "exports", on_event=note)
    app[TASKS][export_id] = asyncio.create_task(download)
    headers = {"Location": f"/backups/{export_id}"}
    return web.json_response({"id": export_id}, status=202, headers=headers)


async def show(request: web.Request) -> web.Response:
    """GET /backups/{export_id}: the last event, the result or the error."""
    export_id = request.match_info["export_id"]
    task = request.app[TASKS].get(export_id)
    if task is None:
        return web.json_response({"error": "no such backup"}, status=404)
    if not task.done():
        progress = request.app[PROGRESS].get(export_id, "")
        return web.json_response({"state": "running", "progress": progress})
    if error := task.exception():
        return web.json_response({"state": "failed", "error": str(error)})
    files = [str(file.path) for file in task.result().files]
    return web.json_response(
        {"state": "done", "contacts": task.result().contact_count, "files": files}
    )


async def backups(app: web.Application) -> AsyncIterator[None]:
    """Open the client; when the service stops, cancel its downloads: they resume by their ids."""
    app[TASKS], app[PROGRESS] = {}, {}
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        if key := os.environ.get("SENDGRID_API_KEY"):
            app[CLIENT] = ExportClient(key, session=session)
        else:
            fake = await stack.enter_async_context(FakeSendGrid(contacts=50_000, files=3))
            app[CLIENT] = ExportClient(fake.api_key, session=session, base_url=fake.base_url)
        yield
        for task in app[TASKS].values():
            task.cancel()
        await asyncio.gather(*app[TASKS].values(), return_exceptions=True)


if __name__ == "__main__":
    service = web.Application()
    service.cleanup_ctx.append(backups)
    service.add_routes([web.post("/backups", start), web.get("/backups/{export_id}", show)])
    web.run_app(service, host="127.0.0.1", port=int(sys.argv[1]) if sys.argv[1:] else 8080)
