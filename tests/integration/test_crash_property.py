"""Whatever a run meets and however it ends: no wrong byte is published, none is asked for twice.

`SENDGRID_EXPORTS_EXAMPLES` sets how many stories are told; unset, they are few and always the
same.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal, TypeAlias

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sendgrid_exports import DownloadError, DownloadPolicy, Event, ExportClient, Verify
from sendgrid_exports.testing import (
    EarlyEnd,
    ExpiredLink,
    FakeClock,
    FakeSendGrid,
    Fault,
    FlippedBit,
    IgnoreRange,
    RecordedRequest,
    Reset,
    Stall,
    Status,
    TruncatedChunks,
    WrongContentRange,
    WrongETag,
)
from sendgrid_exports.transfer.journal import Record
from sendgrid_exports.transfer.manifest import read_manifest
from tests.integration.test_resume import (
    ID,
    KIB,
    Killing,
    add,
    asked_again,
    random_file,
    resumable,
)

EXAMPLES = os.environ.get("SENDGRID_EXPORTS_EXAMPLES")

Versions: TypeAlias = "dict[int, list[bytes]]"


@attrs.frozen(kw_only=True)
class Ending:
    """How a run ends, unless it is done before: at a step of the disk."""

    step: int
    how: Literal["kill", "cancel"]
    rest: Literal["kept", "cut", "zeroed"] = "kept"


@attrs.frozen(kw_only=True)
class Change:
    """What happens to the storage meanwhile: at an event, or before the run at 0."""

    event: int
    what: Literal["replace", "kill links"]
    file: int = 1
    same_size: bool = True


@attrs.frozen(kw_only=True)
class Run:
    """One run of `fetch`, and what is lost of the directory after it."""

    policy: DownloadPolicy
    faults: tuple[tuple[Fault, int, int], ...]
    ending: Ending | None
    change: Change | None
    lost: Literal["part", "journal", "manifest", "file"] | None


@attrs.frozen(kw_only=True)
class Story:
    """An export, and the runs on it before the last one, in which nothing goes wrong."""

    etag: str
    packed: bool
    sizes: tuple[int, ...]
    runs: tuple[Run, ...]

    def body(self, size: int, seed: int) -> bytes:
        body = random_file(size, seed)
        return gzip.compress(body, mtime=0) if self.packed else body


AFTER = st.sampled_from([0, 1, 3000, 10_000, 16 * KIB - 1, 16 * KIB, 40_000])
PASSING = st.one_of(
    st.builds(Reset, AFTER),
    st.builds(EarlyEnd, AFTER),
    st.builds(TruncatedChunks, AFTER),
    st.builds(Stall, AFTER),
    st.just(Status(503)),
    st.just(WrongContentRange()),
    st.just(ExpiredLink()),
)
"""Faults after which a file goes on where it was."""

STARTING_OVER = st.sampled_from(
    [IgnoreRange(), WrongETag('"another-2"'), WrongETag('W/"weak"'), WrongETag("")]
)
FLIPPED = st.builds(FlippedBit, st.integers(0, 60_000))


def policies(least: Verify) -> st.SearchStrategy[DownloadPolicy]:
    levels = list(Verify)
    return st.builds(
        DownloadPolicy,
        connections=st.integers(1, 6),
        connections_per_file=st.integers(1, 4),
        piece_size=st.sampled_from([5000, 16 * KIB, 32 * KIB, 1 << 25]),
        read_timeout=st.just(0.05),
        attempts=st.integers(1, 3),
        decompress=st.booleans(),
        verify=st.sampled_from(levels[levels.index(least) :]),
    )


ENDINGS = st.builds(
    Ending,
    step=st.integers(1, 160),
    how=st.sampled_from(["kill", "kill", "cancel"]),
    rest=st.sampled_from(["kept", "cut", "zeroed"]),
)
CHANGES = st.builds(
    Change,
    event=st.integers(0, 6),
    what=st.sampled_from(["replace", "kill links"]),
    file=st.integers(1, 2),
    same_size=st.booleans(),
)


def stories(*, flips: bool) -> st.SearchStrategy[Story]:
    """Stories with flipped bits where a checksum catches them, and without."""
    faults = st.one_of(PASSING, PASSING, STARTING_OVER, *([FLIPPED, FLIPPED] if flips else []))
    runs = st.builds(
        Run,
        policy=policies(Verify.CHECKSUM if flips else Verify.LENGTH),
        faults=st.lists(st.tuples(faults, st.integers(0, 8), st.integers(1, 3)), max_size=3).map(
            tuple
        ),
        ending=st.none() | ENDINGS,
        change=st.none() | st.none() | CHANGES,
        lost=st.none() | st.sampled_from(["part", "journal", "manifest", "file"]),
    )
    return st.builds(
        Story,
        etag=st.just("md5") if flips else st.sampled_from(["multipart", "multipart", "md5"]),
        packed=st.booleans(),
        sizes=st.lists(st.integers(50_000, 200_000), min_size=1, max_size=2).map(tuple),
        runs=st.lists(runs, min_size=1, max_size=5).map(tuple),
    )


@pytest.mark.timeout(120 if EXAMPLES is None else 0)
@settings(
    max_examples=int(EXAMPLES or 40),
    derandomize=EXAMPLES is None,
    database=None,
    deadline=None,
    print_blob=False,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(stories(flips=True) | stories(flips=False))
def test_every_story_ends_well(story: Story) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as directory:
        asyncio.run(Telling(story, Path(directory) / "exports", Killing(monkeypatch)).tell())


class Telling:
    """A story as it is told, and what must be true at every point of it."""

    def __init__(self, story: Story, directory: Path, killing: Killing) -> None:
        self.story = story
        self.directory = directory
        self.killing = killing
        self.clock = FakeClock()
        self.versions: Versions = {}
        self.bad_bytes = False
        self.lost: set[str] = set()

    async def tell(self) -> None:
        async with AsyncExitStack() as stack:
            self.fake = await stack.enter_async_context(
                FakeSendGrid(clock=self.clock, etag=self.story.etag)  # type: ignore[arg-type]
            )
            bodies = [self.story.body(size, seed) for seed, size in enumerate(self.story.sizes)]
            self.versions = {number: [body] for number, body in enumerate(bodies, start=1)}
            await add(self.fake, *bodies)
            for run in self.story.runs:
                await self.run(run)
                self.check_disk()
                if run.lost is not None:
                    self.lose(run.lost)
            await self.finish()

    def client(self, policy: DownloadPolicy) -> ExportClient:
        return ExportClient(
            self.fake.api_key,
            base_url=self.fake.base_url,
            clock=self.clock,
            random=lambda: 0.0,
            downloads=policy,
        )

    async def run(self, run: Run) -> None:
        changes: list[asyncio.Task[None]] = []
        seen = 0

        def on_event(event: Event) -> None:
            nonlocal seen
            seen += 1
            # Otherwise most events of small files would be too close to the one before.
            self.clock.advance(0.1)
            if run.change is not None and seen == run.change.event:
                changes.append(asyncio.ensure_future(self.change(run.change)))

        if run.change is not None and not run.change.event:
            await self.change(run.change)
        known, before = self.durable(), len(self.fake.storage_requests)
        for fault, skip, times in run.faults:
            self.fake.inject(fault, skip=skip, times=times)
        step, how = (run.ending.step, run.ending.how) if run.ending else (1 << 40, "cancel")
        try:
            async with self.client(run.policy) as client:
                await self.killing.fetch(
                    client, self.directory, step=step, kill=how == "kill", on_event=on_event
                )
        except DownloadError:
            pass
        await asyncio.gather(*changes)
        self.fake.clear_faults()
        self.bad_bytes |= any(isinstance(fault, FlippedBit) for fault, _, _ in run.faults)
        if not self.bad_bytes and not any(
            isinstance(fault, IgnoreRange | WrongETag) for fault, _, _ in run.faults
        ):
            self.check_requests(self.fake.storage_requests[before:], known)
        if (
            run.ending
            and how == "kill"
            and self.killing.steps >= step
            and run.ending.rest != "kept"
        ):
            self.killing.lose_power(run.ending.rest)

    def lose(self, what: str) -> None:
        pattern = {"part": "-?????.part", "file": "-?????.csv*"}.get(what, f".{what}*")
        for path in sorted(self.directory.glob(f"{ID}{pattern}"))[:1]:
            path.unlink()
            self.lost.add(path.name)

    async def change(self, change: Change) -> None:
        if change.what == "kill links":
            self.fake.expire_links()
            return
        number = min(change.file, len(self.story.sizes))
        seed = 100 * number + len(self.versions[number])
        size = self.story.sizes[number - 1] + (0 if change.same_size else 1234)
        body = self.story.body(size, seed)
        self.versions[number].append(body)
        await self.fake.replace_file(ID, number, body)

    async def finish(self) -> None:
        known, before = self.durable(), len(self.fake.storage_requests)
        async with self.client(DownloadPolicy(verify=Verify.CHECKSUM)) as client:
            result = await client.fetch(ID, self.directory)
        if not self.bad_bytes:
            self.check_requests(self.fake.storage_requests[before:], known)
        self.check_disk()
        assert len(result.files) == len(self.story.sizes)
        left = {path.name for path in self.directory.iterdir()}
        assert {file.path.name for file in result.files} <= left
        assert not {path for path in left if path.endswith((".lock",))}
        assert not list(self.directory.glob(f"{ID}-?????.part"))

    def durable(self) -> dict[int, Record]:
        """What is on disk of the versions that are at the storage now."""
        now = self.durable_versions()
        return {
            number: record
            for number, record in resumable(self.directory).items()
            if record.etag == now[number]
        }

    def check_requests(self, requests: list[RecordedRequest], known: dict[int, Record]) -> None:
        now = self.durable_versions()
        unchanged = {n: record for n, record in known.items() if record.etag == now[n]}
        assert not asked_again(requests, unchanged)

    def durable_versions(self) -> dict[int, str | None]:
        return dict(enumerate(self.fake.etags(ID), start=1))

    def check_disk(self) -> None:
        for path in self.directory.glob(f"{ID}-?????.csv*"):
            content = path.read_bytes()
            versions = self.versions[int(path.name[len(ID) + 1 :][:5])]
            plain = [gzip.decompress(body) for body in versions] if self.story.packed else []
            if path.suffix == ".gz" and content not in versions:
                content = gzip.decompress(content)
            assert content in [*versions, *plain], path.name
        path = self.directory / f"{ID}.manifest.json"
        manifest = read_manifest(path.read_bytes(), ID) if path.exists() else None
        for entry in manifest.files if manifest else ():
            final = self.directory / entry.name
            # The manifest names a file before the file gets its name.
            parts = list(self.directory.glob(f"{ID}-{entry.number:05}.*part"))
            if self.lost & {final.name, f"{ID}-{entry.number:05}.part"}:
                continue
            contents = [path.read_bytes() for path in ([final] if final.exists() else parts)]
            assert any(
                entry.size == len(content)
                and entry.sha256 in {None, hashlib.sha256(content).hexdigest()}
                for content in contents
            )
