"""Whatever a storage answers has a meaning, and no reason of ours quotes a secret."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.transfer.answers import (
    AllHere,
    Answer,
    Asked,
    LinkDead,
    Meaning,
    Receive,
    Refused,
    StartOver,
    TryAgain,
    Version,
    judge,
    request_headers,
)
from sendgrid_exports.transfer.retries import Again, Renew, Tries, next_step

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
SECRET = "5ec2e75ec2e75ec2e7"

STATUSES = st.one_of(
    st.integers(100, 999),
    st.sampled_from([200, 206, 302, 400, 403, 404, 408, 410, 412, 416, 429, 500, 503]),
)
CODES = [
    "AccessDenied",
    "ExpiredToken",
    "SignatureDoesNotMatch",
    "SlowDown",
    "RequestTimeout",
    "NoSuchKey",
    "",
]
TAGS = ["Code", "Message", "Expires", "ServerTime", "X-Amz-Expires", "SignatureProvided", "Error"]
TIMES = st.sampled_from(
    [
        "2026-03-02T09:30:00Z",
        "2026-03-02T09:30:00",
        "2026-03-02 09:30:00 +0000 UTC",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59-23:59",
        "0002-01-01T00:00:00+23:59",
        "2026-02-30T00:00:00Z",
        "2026-03-02T25:61:61Z",
        "1" * 400,
        "-1",
        "٢٠٢٦-٠٣-٠٢T٠٩:٣٠:٠٠Z",
    ]
)
HTTP_DATES = st.sampled_from(
    [
        "Mon, 02 Mar 2026 09:30:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 0001 00:00:00 +2359",
        "Mon, 01 Jan 1 00:00:00 GMT",
        "Mon, 32 Foo 2026 99:99:99 GMT",
        "Mon, 02 Mar 2026 09:30:00 +999999999",
        "Mon, 02 Mar " + "9" * 5000 + " 09:30:00 GMT",
        "x, 1 2 3 4:5:6 é",
    ]
)
NUMBERS = st.sampled_from(
    [
        "0",
        "7",
        "-1",
        "1e309",
        "1e308",
        "nan",
        "inf",
        "0x10",
        "٧",
        "1_0",
        "9" * 30,
        "9" * 5000,
        " 5 ",
    ]
)
FREE = st.text(max_size=40)


@st.composite
def xml(draw: st.DrawFn) -> str:
    """Return something like S3's XML: tags in any order, perhaps torn, with anything in them."""
    parts = draw(
        st.lists(
            st.tuples(st.sampled_from(TAGS), st.one_of(st.sampled_from(CODES), TIMES, FREE)),
            max_size=6,
        )
    )
    inner = "".join(f"<{tag}>{text}</{tag}>" for tag, text in parts)
    text = f'<?xml version="1.0"?>\n<Error>{inner}</Error>'
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


TEXTS = st.one_of(
    xml(),
    st.text(max_size=200),
    st.binary(max_size=200).map(lambda raw: raw.decode("utf-8", "replace")),
    st.sampled_from(["<Code>" * 5000, "<Message>" + "<" * 10_000, "\0" * 100]),
)
RANGES = st.one_of(
    st.sampled_from(
        [
            "bytes 0-99/1000",
            "bytes 100-199/1000",
            "bytes 100-199/*",
            "bytes */1000",
            "bytes */*",
            "bytes 199-100/1000",
            "bytes 0-0/0",
            f"bytes 0-{'9' * 19}/{'9' * 19}",
            f"bytes 0-{'9' * 5000}/1",
            "bytes ٠-٩/١٠",
        ]
    ),
    FREE,
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-range": RANGES,
        "content-length": st.one_of(NUMBERS, FREE),
        "etag": st.one_of(st.sampled_from(['"one"', '"two"', 'W/"one"', '""', '"', "one"]), FREE),
        "retry-after": st.one_of(NUMBERS, HTTP_DATES, FREE),
        "x-ratelimit-reset": st.one_of(NUMBERS, FREE),
        "date": st.one_of(HTTP_DATES, FREE),
    },
)
VERSION = Version(etag='"one"', total=1000)
ASKED = st.sampled_from(
    [
        Asked(),
        Asked(end=100),
        Asked(start=100, end=200, version=VERSION),
        Asked(start=900, version=VERSION),
        Asked(start=1000, end=1000, version=VERSION),
        Asked(ranged=False),
        Asked(ranged=False, version=VERSION),
    ]
)


def reason(meaning: Meaning) -> str:
    told = (getattr(meaning, name, None) or "" for name in ("reason", "code", "advice"))
    return "".join(told)


@settings(max_examples=600, derandomize=True, deadline=None)
@given(ASKED, STATUSES, HEADERS, TEXTS, st.booleans())
@example(Asked(), 206, {"content-range": f"bytes 0-{'9' * 19}/{'9' * 19}"}, "", False)
@example(Asked(), 503, {"retry-after": "1e309", "date": "x"}, "", True)
def test_every_answer_has_a_meaning(
    asked: Asked, status: int, headers: dict[str, str], text: str, due: bool
) -> None:
    meaning = judge(asked, Answer(status=status, headers=headers, text=text), utc=NOW, due=due)
    said = reason(meaning)
    assert len(said) < 1000
    assert "\n" not in said
    if isinstance(meaning, TryAgain) and meaning.retry_after is not None:
        assert 0 <= meaning.retry_after < math.inf
    if isinstance(meaning, Receive):
        assert status in {200, 206}
        assert meaning.total is None or meaning.total >= 0
        if meaning.version is not None:
            assert request_headers(Asked(version=meaning.version))["If-Match"].isprintable()
    else:
        assert status != 200 or isinstance(meaning, StartOver | TryAgain)
    if status in {404, 410}:
        assert isinstance(meaning, LinkDead)
    if 300 <= status < 400:
        assert isinstance(meaning, Refused)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(
    ASKED,
    st.lists(st.tuples(STATUSES, HEADERS, TEXTS, st.booleans()), min_size=1, max_size=8),
    st.integers(1, 8),
)
def test_answers_without_a_byte_come_to_an_end(
    asked: Asked, answers: list[tuple[int, dict[str, str], str, bool]], attempts: int
) -> None:
    """A storage that gives the same answers round and round, never with a byte, is given up."""
    tries, failures = Tries(), 0
    plain = not asked.ranged
    for turn in range(100):
        status, headers, text, due = answers[turn % len(answers)]
        asked = Asked(ranged=False) if plain else asked
        meaning = judge(asked, Answer(status=status, headers=headers, text=text), utc=NOW, due=due)
        failures += 1
        if isinstance(meaning, AllHere):
            return
        failure = TryAgain("no byte came") if isinstance(meaning, Receive) else meaning
        step, tries = next_step(
            failure,
            tries,
            failures=failures,
            attempts=attempts,
            left=math.inf,
            random=lambda: 0.5,
        )
        if not isinstance(step, Again | Renew | StartOver):
            return
        if isinstance(step, StartOver):
            plain = plain or step.plain
            asked, failures = Asked(ranged=not plain), 0
    raise AssertionError("it goes on for ever")


def hidden(before: str, after: str) -> list[str]:
    """Return `SECRET` in all the ways in which S3 and those before it write a signature."""
    return [
        f"{before}https://b.s3.amazonaws.com/k?X-Amz-Signature={SECRET}{after}",
        f"{before}https://b.s3.amazonaws.com/k?a=b&amp;X-Amz-Signature={SECRET}{after}",
        f"{before}HTTP://B/k?{SECRET}{after}",
        f"{before}https://user:{SECRET}@host/k{after}",
        f"{before} X-Amz-Signature={SECRET}{after}",
        f"{before} x-amz-signature: {SECRET}{after}",
        f"{before} X-Amz-Signature%3D{SECRET}{after}",
        f"{before}%26X-Amz-Signature%3D{SECRET}{after}",
        f"{before} Signature={SECRET}{after}",
        f'{before} "Signature": "{SECRET}"{after}',
        f"{before} X-Amz-Security-Token={SECRET}{after}",
        f"{before} X-Amz-Credential={SECRET}/20260302/us-east-1/s3{after}",
        f"{before} AWSAccessKeyId={SECRET}{after}",
        f"{before} Bearer {SECRET}{after}",
        f"{before} SG.{SECRET}.{SECRET}{after}",
    ]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    STATUSES,
    st.text(" \t\n.,;abz&%/é", max_size=30),
    st.sampled_from(["", " ", ".", "&x=1", "\n", ",", "é", " ", "\\n"]),
    ASKED,
)
def test_no_reason_quotes_a_signature(status: int, before: str, after: str, asked: Asked) -> None:
    for told in hidden(before, after):
        for text in (
            f"<Error><Code>{told}</Code><Message>{told}</Message></Error>",
            f"<Error><Code>AccessDenied</Code><Message>{told}</Message></Error>",
            f"<Error><Message>{'a' * 2300}{told}</Message></Error>",
            f"<Error><Code>{'a ' * 25}{told}</Code></Error>",
            f"<SignatureProvided>{SECRET}</SignatureProvided><Message>no</Message>",
            told,
        ):
            headers = {"content-range": told, "etag": told, "retry-after": told, "location": told}
            answer = Answer(status=status, headers=headers, text=text)
            meaning = judge(asked, answer, utc=NOW, due=False)
            # Of a version, the tag is the storage's own; reasons and codes are what is quoted.
            assert SECRET not in reason(meaning), (told, text)
            assert SECRET not in repr(answer)


@pytest.mark.parametrize(
    "told", [f"X-Amz-Signature%253D{SECRET}", f"&lt;SignatureProvided&gt;{SECRET}&lt;"]
)
def test_rarer_spellings_of_a_signature(told: str) -> None:
    text = f"<Error><Code>AccessDenied</Code><Message>no: {told}</Message></Error>"
    meaning = judge(Asked(), Answer(status=403, text=text), utc=NOW, due=False)
    assert isinstance(meaning, LinkDead)
    assert SECRET not in meaning.reason


@pytest.mark.parametrize("size", [64 * 1024])
@pytest.mark.parametrize(
    "unit", ["<Code>", "<Message>a", "&Signature=", "https://", "bearer ", "%26"]
)
def test_a_long_text_takes_no_long_time(unit: str, size: int) -> None:
    text = (unit * size)[:size]
    began = datetime.now(UTC)
    judge(Asked(), Answer(status=403, text=text), utc=NOW, due=False)
    judge(Asked(), Answer(status=403, text=f"<Message>{text}</Message>"), utc=NOW, due=False)
    assert (datetime.now(UTC) - began).total_seconds() < 2


def test_a_tag_that_cannot_be_sent_back_pins_nothing() -> None:
    """Bytes outside of UTF-8 reach us as surrogates, which aiohttp drops from what it sends."""
    headers = {"etag": '"a\udce9"', "content-range": "bytes 0-99/100"}
    meaning = judge(Asked(end=100), Answer(status=206, headers=headers), utc=NOW, due=False)
    assert isinstance(meaning, Receive)
    assert meaning.version is None
