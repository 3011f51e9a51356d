"""The real command in a process of its own, and ears that hear every secret it tells."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

import attrs
import pytest

import sendgrid_exports
from sendgrid_exports.cli.main import run
from sendgrid_exports.testing import FakeSendGrid

SIGNED = {"X-Amz-Signature", "X-Amz-Credential", "X-Amz-Security-Token"}
COMMAND = (sys.executable, "-W", "error", "-m", "sendgrid_exports")
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if name not in {"SENDGRID_API_KEY", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM"}
}


@attrs.frozen
class Ended:
    """How a command ended: its exit code, and what it said."""

    code: int
    output: str
    errors: str


class Command:
    """The command, asking one service."""

    def __init__(self, fake: FakeSendGrid, directory: Path) -> None:
        self.fake = fake
        self.directory = directory

    async def begin(
        self, *arguments: str, env: Mapping[str, str] | None = None
    ) -> asyncio.subprocess.Process:
        """Start it: the service among its arguments, the key in its environment."""
        return await asyncio.create_subprocess_exec(
            *(*COMMAND, *self.words(arguments)),
            cwd=self.directory,
            env={**CLEAN, "SENDGRID_API_KEY": self.fake.api_key, **(env or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(
        self, *arguments: str, env: Mapping[str, str] | None = None, typed: str = ""
    ) -> Ended:
        """Run it to its end in a process of its own, and hear that it told no secret."""
        process = await self.begin(*arguments, env=env)
        return await self.end(process, typed)

    async def here(self, *arguments: str, env: Mapping[str, str] | None = None) -> Ended:
        """Run it to its end in a thread of this process, which is quicker, and hear likewise."""
        output, errors = io.StringIO(), io.StringIO()

        def call() -> int:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                return run(self.words(arguments))

        logger = logging.getLogger("sendgrid_exports")
        before = (logger.handlers, logger.level, logger.propagate)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.directory)
                # As `python -m sendgrid_exports` has it, whatever runs the tests.
                patch.setattr(
                    sys, "argv", [str(Path(sendgrid_exports.__file__).with_name("__main__.py"))]
                )
                for name in (*os.environ.keys() - CLEAN.keys(),):
                    patch.delenv(name)
                for name, value in {"SENDGRID_API_KEY": self.fake.api_key, **(env or {})}.items():
                    patch.setenv(name, value)
                code = await asyncio.to_thread(call)
        finally:
            logger.handlers, logger.propagate = before[0], before[2]
            logger.setLevel(before[1])
        ended = Ended(code, output.getvalue(), errors.getvalue())
        self.hear(ended.output + ended.errors)
        return ended

    async def end(self, process: asyncio.subprocess.Process, typed: str = "") -> Ended:
        """Wait for the end of one that was begun."""
        output, errors = await process.communicate(typed.encode())
        assert process.returncode is not None
        ended = Ended(process.returncode, output.decode(), errors.decode())
        self.hear(ended.output + ended.errors)
        return ended

    def words(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the arguments, with the service among them where it is to be asked."""
        if arguments[:1] and arguments[0] in {"backup", "start", "status", "list", "fetch"}:
            return (arguments[0], "--base-url", self.fake.base_url, *arguments[1:])
        return arguments

    def hear(self, said: str) -> None:
        """Fail if the key, or what signed a link, was said."""
        secrets = {self.fake.api_key}
        for request in self.fake.storage_requests:
            secrets |= {value for name, value in parse_qsl(request.query) if name in SIGNED}
        assert not {secret for secret in secrets if secret and secret in said}
        assert "X-Amz-Signature=" not in said.replace("X-Amz-Signature=[redacted]", "")
