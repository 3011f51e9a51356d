"""An aiohttp web service that backs up contacts in the background and answers with progress.

    python examples/inside_a_service.py [--port 8080] [--directory exports]
    curl -X POST http://127.0.0.1:8080/backups
    curl http://127.0.0.1:8080/backups/EXPORT_ID

The service lends its own aiohttp session to the client, which never closes it. With
SENDGRID_API_KEY in the environment it asks SendGrid; without, an embedded server like it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from sendgrid_exports import (
    BytesReceived,
    Event,
    ExportClient,
    FileFinished,
    SendGridExportsError,
    StatusPolled,
)
from sendgrid_exports.testing import FakeSendGrid


class Backups:
    """The backups of this service, by export id."""

    def __init__(self, client: ExportClient, directory: str) -> None:
        """Use a client that lives as long as the service."""
        self._client = client
        self._directory = directory
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.progress: dict[str, dict[str, object]] = {}

    async def start(self) -> str:
        """Start an export and fetch it in the background; return its id."""
        export_id = await self._client.start()
        self.progress[export_id] = {"state": "pending", "received": {}, "finished": []}
        self._tasks[export_id] = asyncio.create_task(self._fetch(export_id))
        return export_id

    async def _fetch(self, export_id: str) -> None:
        progress = self.progress[export_id]
        received: dict[str, int] = {}
        finished: list[str] = []

        def note(event: Event) -> None:
            match event:
                case StatusPolled(export=export):
                    progress["state"] = export.status_text
                case BytesReceived(path=path, received=count):
                    received[path.name] = count
                case FileFinished(file=file):
                    received[file.path.name] = file.size
                    finished.append(file.path.name)
            progress.update(received=received, finished=finished)

        try:
            result = await self._client.fetch(export_id, self._directory, on_event=note)
        except SendGridExportsError as error:
            progress.update(state="failed", error=str(error))
        else:
            progress.update(state="done", contacts=result.contact_count)

    async def stop(self) -> None:
        """Cancel what is under way; a later start of the service can fetch it again by its id."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


BACKUPS = web.AppKey("BACKUPS", Backups)


async def begin(request: web.Request) -> web.Response:
    """POST /backups: start one."""
    try:
        export_id = await request.app[BACKUPS].start()
    except SendGridExportsError as error:
        return web.json_response({"error": str(error)}, status=502)
    location = str(request.app.router["backup"].url_for(export_id=export_id))
    return web.json_response({"id": export_id}, status=202, headers={"Location": location})


async def show(request: web.Request) -> web.Response:
    """GET /backups/{export_id}: how far it is."""
    progress = request.app[BACKUPS].progress.get(request.match_info["export_id"])
    if progress is None:
        return web.json_response({"error": "no such backup"}, status=404)
    return web.json_response(progress)


def make_app(directory: str) -> web.Application:
    """Return the service, which opens and closes everything it uses."""

    async def backups(app: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as session:
            if key := os.environ.get("SENDGRID_API_KEY"):
                app[BACKUPS] = Backups(ExportClient(key, session=session), directory)
                yield
                await app[BACKUPS].stop()
                return
            seed = secrets.randbits(32)  # every export has an id of its own
            async with FakeSendGrid(contacts=50_000, files=3, seed=seed) as fake:
                client = ExportClient(fake.api_key, session=session, base_url=fake.base_url)
                app[BACKUPS] = Backups(client, directory)
                yield
                await app[BACKUPS].stop()

    app = web.Application()
    app.cleanup_ctx.append(backups)
    app.add_routes(
        [web.post("/backups", begin), web.get("/backups/{export_id}", show, name="backup")]
    )
    return app


async def serve(port: int, directory: str) -> None:
    """Serve on loopback until cancelled."""
    runner = web.AppRunner(make_app(directory))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        print(f"Listening on http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(description="Back up contacts in the background.")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--directory", default="exports")
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments.port, arguments.directory))
    except KeyboardInterrupt:
        print("Stopped.")


if __name__ == "__main__":
    main()
