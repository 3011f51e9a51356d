"""An aiohttp web service that backs up contacts in the background, and prints each event.

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

import aiohttp
from aiohttp import web

from sendgrid_exports import DownloadResult, ExportClient, SendGridExportsError
from sendgrid_exports.testing import FakeSendGrid

CLIENT = web.AppKey("CLIENT", ExportClient)
JOBS = web.AppKey("JOBS", dict[str, asyncio.Task[DownloadResult]])


async def start(request: web.Request) -> web.Response:
    """POST /backups: start an export and download it in the background."""
    client, jobs = request.app[CLIENT], request.app[JOBS]
    try:
        export_id = await client.start()
    except SendGridExportsError as error:
        return web.json_response({"error": str(error)}, status=502)
    jobs[export_id] = asyncio.create_task(client.fetch(export_id, "exports", on_event=print))
    headers = {"Location": f"/backups/{export_id}"}
    return web.json_response({"id": export_id}, status=202, headers=headers)


async def show(request: web.Request) -> web.Response:
    """GET /backups/{export_id}: whether it is running, or the result, or the error."""
    job = request.app[JOBS].get(request.match_info["export_id"])
    if job is None:
        return web.json_response({"error": "no such backup"}, status=404)
    if not job.done():
        return web.json_response({"state": "running"})
    if error := job.exception():
        return web.json_response({"state": "failed", "error": str(error)})
    files = [str(file.path) for file in job.result().files]
    return web.json_response(
        {"state": "done", "contacts": job.result().contact_count, "files": files}
    )


async def backups(app: web.Application) -> AsyncIterator[None]:
    """Open the client; when the service stops, cancel its jobs: `fetch` resumes them by id."""
    key = os.environ.get("SENDGRID_API_KEY")
    jobs = app[JOBS] = {}
    async with FakeSendGrid(contacts=50_000, files=3) as fake, aiohttp.ClientSession() as session:
        app[CLIENT] = (
            ExportClient(key, session=session)
            if key
            else ExportClient(**fake.credentials, session=session)
        )
        yield
        for job in jobs.values():
            job.cancel()
        await asyncio.gather(*jobs.values(), return_exceptions=True)


if __name__ == "__main__":
    service = web.Application()
    service.cleanup_ctx.append(backups)
    service.add_routes([web.post("/backups", start), web.get("/backups/{export_id}", show)])
    web.run_app(service, host="127.0.0.1", port=int(sys.argv[1]) if sys.argv[1:] else 8080)
