"""What each answer of the storage means, row by row."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.transfer.answers import (
    AllHere,
    Answer,
    Asked,
    Expected,
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

NOW = datetime(2025, 7, 18, 20, tzinfo=UTC)
ONE = Version(etag='"one"', total=1000)

FIRST = Asked(end=100)
LATER = Asked(start=100, end=200, version=ONE)
TO_THE_END = Asked(start=900, version=ONE)
PLAIN = Asked(ranged=False)

SIZED = Expected(size=1000)
RECEIVE_LATER = Receive(total=1000, version=ONE, whole=False, expected=SIZED)


RECEIVE_ALL = Receive(total=1000, version=ONE, whole=True, expected=SIZED)


def answer(
    status: int,
    text: str = "",
    *,
    part: str | None = None,
    length: str | None = None,
    etag: str | None = '"one"',
    **headers: str,
) -> Answer:
    named = {
        "content-range": part,
        "content-length": length,
        "etag": etag,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    present = {name: value for name, value in named.items() if value is not None}
    return Answer(status=status, headers=present, text=text)


def error(status: int, code: str, message: str = "", more: str = "", **headers: str) -> Answer:
    text = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"
    )
    return answer(status, text, etag=None, **headers)


def judged(asked: Asked, seen: Answer, *, due: bool = False) -> Meaning:
    return judge(asked, seen, utc=NOW, due=due)


@pytest.mark.parametrize(
    ("asked", "headers"),
    [
        (FIRST, {"Range": "bytes=0-99"}),
        (Asked(), {"Range": "bytes=0-"}),
        (LATER, {"Range": "bytes=100-199", "If-Match": '"one"'}),
        (TO_THE_END, {"Range": "bytes=900-", "If-Match": '"one"'}),
        (PLAIN, {}),
        (Asked(ranged=False, version=ONE), {}),
    ],
)
def test_request_headers(asked: Asked, headers: dict[str, str]) -> None:
    assert request_headers(asked) == headers


@pytest.mark.parametrize(
    ("asked", "seen", "meaning"),
    [
        pytest.param(
            FIRST,
            answer(206, part="bytes 0-99/1000", length="100"),
            RECEIVE_LATER,
            id="the first",
        ),
        pytest.param(
            FIRST,
            answer(206, part="bytes 0-99/1000"),
            RECEIVE_LATER,
            id="the first, chunked",
        ),
        pytest.param(
            FIRST,
            answer(206, part="bytes 0-41/42", length="42"),
            Receive(
                total=42,
                version=Version(etag='"one"', total=42),
                whole=False,
                expected=Expected(size=42),
            ),
            id="the first holds all",
        ),
        pytest.param(
            FIRST,
            answer(206, part="bytes 0-41/42", etag=None),
            Receive(total=42, version=None, whole=True, expected=Expected(size=42)),
            id="the first holds all, and nothing pins it",
        ),
        pytest.param(
            LATER,
            answer(206, part="bytes 100-199/1000", length="100"),
            RECEIVE_LATER,
            id="a later one",
        ),
        pytest.param(
            TO_THE_END, answer(206, part=" bytes 900-999/1000 "), RECEIVE_LATER, id="the last"
        ),
    ],
)
def test_206_as_asked(asked: Asked, seen: Answer, meaning: Meaning) -> None:
    assert judged(asked, seen) == meaning


@pytest.mark.parametrize(
    ("asked", "part", "length"),
    [
        pytest.param(LATER, "bytes 0-99/1000", None, id="from elsewhere"),
        pytest.param(LATER, "bytes 101-199/1000", None, id="begins late"),
        pytest.param(LATER, "bytes 100-249/1000", None, id="more than asked"),
        pytest.param(LATER, "bytes 100-149/1000", None, id="less than asked"),
        pytest.param(LATER, "bytes 100-199/1000", "101", id="a longer body than it says"),
        pytest.param(LATER, "bytes 100-199/1000", "99", id="a shorter body than it says"),
        pytest.param(TO_THE_END, "bytes 900-998/1000", None, id="not to the end"),
        pytest.param(LATER, "bytes 100-99/1000", None, id="backwards"),
        pytest.param(FIRST, "bytes 0-99/*", None, id="no total"),
        pytest.param(LATER, "bytes 100-199/*", None, id="no total, later"),
        pytest.param(LATER, "bytes */1000", None, id="no range"),
        pytest.param(LATER, "lines 100-199/1000", None, id="another unit"),
        pytest.param(LATER, "bytes 100-199", None, id="half a header"),
        pytest.param(LATER, "bytes 100-199/" + "9" * 5000, None, id="an absurd number"),
        pytest.param(LATER, "bytes \u0661\u0660\u0660-199/1000", None, id="other digits"),
        pytest.param(LATER, None, None, id="no header"),
        pytest.param(FIRST, "bytes 0-0/0", None, id="a byte of nothing"),
        pytest.param(PLAIN, "bytes 0-99/1000", None, id="no range was asked for"),
    ],
)
def test_206_with_another_range_is_a_try_without_progress(
    asked: Asked, part: str | None, length: str | None
) -> None:
    meaning = judged(asked, answer(206, part=part, length=length))
    assert isinstance(meaning, TryAgain)
    assert (meaning.retry_after, meaning.slow_down) == (None, False)


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        pytest.param(LATER, answer(206, part="bytes 100-199/1000", etag='"two"'), id="other ETag"),
        pytest.param(LATER, answer(206, part="bytes 100-199/1001"), id="other total"),
        pytest.param(LATER, answer(206, part="bytes 0-9/10", etag='"two"'), id="other everything"),
        pytest.param(LATER, error(412, "PreconditionFailed"), id="412"),
        pytest.param(LATER, answer(416, part="bytes */50"), id="416, shorter now"),
        pytest.param(TO_THE_END, answer(416, part="bytes */1000"), id="416 within the file"),
        pytest.param(LATER, answer(416), id="416 without a size"),
    ],
)
def test_another_version_starts_over(asked: Asked, seen: Answer) -> None:
    meaning = judged(asked, seen)
    assert isinstance(meaning, StartOver)
    assert not meaning.plain


@pytest.mark.parametrize("etag", [None, 'W/"one"', "one", '""', '"', "", '"one'])
def test_what_nothing_pins_is_brought_as_one_stream(etag: str | None) -> None:
    meaning = judged(FIRST, answer(206, part="bytes 0-99/1000", etag=etag))
    assert isinstance(meaning, StartOver)
    assert meaning.plain
    whole = judged(PLAIN, answer(200, length="1000", etag=etag))
    assert whole == Receive(total=1000, version=None, whole=True, expected=SIZED)


@pytest.mark.parametrize("etag", [None, 'W/"two"'])
def test_a_later_part_that_nothing_pins_is_not_appended(etag: str | None) -> None:
    assert isinstance(judged(LATER, answer(206, part="bytes 100-199/1000", etag=etag)), StartOver)


@pytest.mark.parametrize(
    ("asked", "meaning"),
    [
        pytest.param(FIRST, RECEIVE_ALL, id="to the first range"),
        pytest.param(Asked(), RECEIVE_ALL, id="to an open range"),
        pytest.param(PLAIN, RECEIVE_ALL, id="to no range"),
        pytest.param(LATER, StartOver, id="to a later range"),
        pytest.param(Asked(end=100, version=ONE), StartOver, id="at the start, version known"),
        pytest.param(Asked(start=100, end=200), StartOver, id="later, no version known"),
    ],
)
def test_200(asked: Asked, meaning: Meaning | type[StartOver]) -> None:
    seen = judged(asked, answer(200, length="1000"))
    if isinstance(seen, StartOver):
        assert meaning is StartOver
        assert seen.plain
    else:
        assert seen == meaning


@pytest.mark.parametrize("length", [None, "", "-1", "1e3", "\u0661\u0660", "9" * 5000])
def test_200_without_a_usable_length_pins_nothing(length: str | None) -> None:
    chunked = answer(200, length=length, transfer_encoding="chunked")
    assert judged(PLAIN, chunked) == Receive(total=None, version=None, whole=True)
    # Without chunks either, the end of the connection would pass for the end of the file.
    assert isinstance(judged(PLAIN, answer(200, length=length)), TryAgain)


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        pytest.param(FIRST, "bytes */0", id="empty object"),
        pytest.param(FIRST, None, id="no size told"),
        pytest.param(Asked(), "bytes */0", id="open"),
    ],
)
def test_416_to_the_first_range_asks_without_a_range(asked: Asked, part: str | None) -> None:
    meaning = judged(asked, answer(416, part=part))
    assert isinstance(meaning, StartOver)
    assert meaning.plain


def test_416_at_the_known_size_is_complete() -> None:
    asked = Asked(start=1000, version=ONE)
    assert judged(asked, answer(416, part="bytes */1000")) == AllHere()


def test_416_to_no_range_is_refused() -> None:
    assert isinstance(judged(PLAIN, answer(416, part="bytes */0")), Refused)


def aged(expires: str, server_time: str) -> str:
    return f"<Expires>{expires}</Expires><ServerTime>{server_time}</ServerTime>"


BEFORE = aged("2025-07-18T19:58:35Z", "2025-07-18T19:58:36Z")
SAME = aged("2025-07-18T19:58:35Z", "2025-07-18T19:58:35Z")
STILL_VALID = aged("2025-07-18T19:58:36Z", "2025-07-18T19:58:35Z")


@pytest.mark.parametrize(
    ("seen", "due", "expired"),
    [
        pytest.param(error(403, "AccessDenied", "Request has expired"), False, True, id="said"),
        pytest.param(error(403, "AccessDenied", "Denied", BEFORE), False, True, id="two times"),
        pytest.param(error(403, "AccessDenied", "Access Denied"), True, True, id="our reckoning"),
        pytest.param(answer(403), True, True, id="our reckoning, no body"),
        pytest.param(error(403, "AccessDenied", "Access Denied"), False, False, id="denied"),
        pytest.param(error(403, "AccessDenied", "", STILL_VALID), False, False, id="still valid"),
        pytest.param(error(403, "AccessDenied", "", SAME), False, False, id="not yet"),
        pytest.param(
            error(403, "AccessDenied", "", aged("soon", "now")), False, False, id="no times"
        ),
        pytest.param(
            error(403, "AccessDenied", "", "<Expires>2025-07-18T19:58:35Z</Expires>"),
            False,
            False,
            id="one time",
        ),
        pytest.param(error(403, "RequestTimeTooSkewed", "Too skewed"), False, False, id="skewed"),
        pytest.param(answer(403, "<html>Forbidden</html>"), False, False, id="html"),
        pytest.param(error(400, "ExpiredToken", "The token expired"), False, True, id="token"),
    ],
)
@pytest.mark.parametrize("asked", [FIRST, LATER, PLAIN], ids=["first", "later", "plain"])
def test_dead_links(asked: Asked, seen: Answer, due: bool, expired: bool) -> None:
    meaning = judged(asked, seen, due=due)
    assert isinstance(meaning, LinkDead)
    assert meaning.expired is expired


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        pytest.param(error(403, "SignatureDoesNotMatch"), "SignatureDoesNotMatch", id="signature"),
        pytest.param(error(400, "InvalidArgument", "Only one"), "InvalidArgument", id="400"),
        pytest.param(error(401, "Unauthorized"), "Unauthorized", id="401"),
        pytest.param(error(405, "MethodNotAllowed"), "MethodNotAllowed", id="405"),
        pytest.param(answer(400, "<html>"), None, id="html"),
        pytest.param(answer(204), None, id="204"),
        pytest.param(answer(501), None, id="501"),
    ],
)
@pytest.mark.parametrize("due", [True, False])
def test_refused(seen: Answer, code: str | None, due: bool) -> None:
    meaning = judged(FIRST, seen, due=due)
    assert isinstance(meaning, Refused)
    assert (meaning.status, meaning.code) == (seen.status, code)
    assert meaning.reason.startswith(str(seen.status))
    assert (code or "") in meaning.reason
    assert "edirect" not in meaning.reason + meaning.advice


def test_a_page_in_the_place_of_an_error_is_told_by_its_title() -> None:
    page = answer(400, "<html><title>Blocked</title><a href='https://h/?s3cret'>why</a></html>")
    meaning = judged(FIRST, page)
    assert isinstance(meaning, Refused)
    assert meaning.reason == "400 an HTML page such as proxies send ('Blocked')"


def test_412_to_no_condition_is_refused() -> None:
    assert isinstance(judged(PLAIN, error(412, "PreconditionFailed")), Refused)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_no_redirect_is_followed(status: int) -> None:
    meaning = judged(FIRST, answer(status, location="https://evil.example/?sig=s3cret"))
    assert isinstance(meaning, Refused)
    assert "Redirects are not followed" in meaning.advice
    assert "proxies" in meaning.advice
    assert "evil" not in repr(meaning)


@pytest.mark.parametrize("status", [301, 307])
@pytest.mark.parametrize("code", ["TemporaryRedirect", "PermanentRedirect"])
@pytest.mark.parametrize(
    ("headers", "where"),
    [
        ({"x_amz_bucket_region": "eu-west-1"}, "the bucket's own region (eu-west-1)"),
        ({"x_amz_bucket_region": "<evil>"}, "the bucket's own region, "),
        ({}, "the bucket's own region, "),
    ],
)
def test_a_redirect_of_s3_to_another_region_is_not_blamed_on_proxies(
    status: int, code: str, headers: dict[str, str], where: str
) -> None:
    meaning = judged(FIRST, error(status, code, "Please re-send this request", **headers))
    assert isinstance(meaning, Refused)
    assert code in meaning.reason
    assert where in meaning.advice
    assert "prox" not in meaning.advice


@pytest.mark.parametrize(
    "seen",
    [
        error(400, "InvalidArgument", "Only one auth mechanism allowed"),
        error(400, "AuthorizationHeaderMalformed", "The authorization header is malformed"),
        answer(400),
        error(401, "Unauthorized"),
        error(405, "MethodNotAllowed"),
    ],
    ids=lambda seen: str(seen.status),
)
def test_a_bad_request_names_the_session_and_the_proxy(seen: Answer) -> None:
    meaning = judged(FIRST, seen)
    assert isinstance(meaning, Refused)
    assert "session" in meaning.advice
    assert "proxy" in meaning.advice
    assert "support" not in meaning.advice


@pytest.mark.parametrize("status", [404, 410])
@pytest.mark.parametrize("due", [True, False])
def test_a_missing_file_may_have_a_fresh_link(status: int, due: bool) -> None:
    assert judged(LATER, error(status, "NoSuchKey", "Not there"), due=due) == LinkDead(
        f"{status} NoSuchKey: Not there", expired=False, status=status, code="NoSuchKey"
    )


SUM = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"etag": f'"{SUM}"'}, SUM, id="an MD5"),
        pytest.param({"etag": f' "{SUM.upper()}" '}, SUM, id="in capitals"),
        pytest.param(
            {"etag": f'"{SUM}"', "x_amz_server_side_encryption": "AES256"}, SUM, id="AES256"
        ),
        pytest.param(
            {"etag": f'"{SUM}"', "x_amz_server_side_encryption": "aws:kms"}, None, id="kms"
        ),
        pytest.param(
            {"etag": f'"{SUM}"', "x_amz_server_side_encryption_customer_algorithm": "AES256"},
            None,
            id="a customer's key",
        ),
        pytest.param({"etag": f'"{SUM}-3"'}, None, id="of many parts"),
        pytest.param({"etag": f'W/"{SUM}"'}, None, id="weak"),
        pytest.param({"etag": SUM}, None, id="without quotes"),
        pytest.param({"etag": f'"{SUM[:-1]}"'}, None, id="too short"),
        pytest.param({"etag": f'"{SUM[:-1]}g"'}, None, id="no hex"),
        pytest.param({"etag": '""'}, None, id="empty"),
        pytest.param({}, None, id="other"),
    ],
)
def test_an_etag_is_an_md5_only_sometimes(headers: dict[str, str], expected: str | None) -> None:
    meaning = judged(PLAIN, answer(200, length="10", **headers))
    assert isinstance(meaning, Receive)
    assert meaning.expected == Expected(size=10, md5=expected)


@pytest.mark.parametrize(
    ("headers", "checksums"),
    [
        ({"x_amz_checksum_crc32": "AAAAAA=="}, {"crc32": "AAAAAA=="}),
        ({"x_amz_checksum_sha1": "a", "x_amz_checksum_sha256": "b"}, {"sha1": "a", "sha256": "b"}),
        ({"x_amz_checksum_sha256": "AAAAAA==-3"}, {}),
        ({"x_amz_checksum_crc64nvme": "AAAAAA=="}, {}),
        ({"x_amz_checksum_crc32": ""}, {}),
    ],
)
def test_checksums_of_the_whole_object_are_expected(
    headers: dict[str, str], checksums: dict[str, str]
) -> None:
    for seen in (
        answer(200, transfer_encoding="chunked", **headers),
        answer(206, part="bytes 0-99/100", **headers),
    ):
        meaning = judged(FIRST, seen)
        assert isinstance(meaning, Receive)
        assert meaning.expected.checksums == checksums
    part = judged(FIRST, answer(206, part="bytes 0-99/1000", **headers))
    assert isinstance(part, Receive)
    assert part.expected == Expected(size=1000)


@pytest.mark.parametrize(
    ("seen", "slow_down"),
    [
        pytest.param(error(503, "SlowDown", "Reduce your rate"), True, id="503"),
        pytest.param(answer(429), True, id="429"),
        pytest.param(error(500, "InternalError"), False, id="500"),
        pytest.param(answer(502, "<html>Bad Gateway</html>"), False, id="502"),
        pytest.param(answer(504), False, id="504"),
        pytest.param(answer(408), False, id="408"),
        pytest.param(error(400, "RequestTimeout"), False, id="RequestTimeout"),
    ],
)
def test_failed_in_passing(seen: Answer, slow_down: bool) -> None:
    meaning = judged(LATER, seen)
    assert isinstance(meaning, TryAgain)
    assert (meaning.slow_down, meaning.retry_after) == (slow_down, None)
    assert meaning.reason.startswith(str(seen.status))


def http_date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": http_date(90)}, 90),
        ({"retry_after": http_date(-90)}, 0),
        ({"retry_after": http_date(90), "date": http_date(60)}, 30),
        ({"retry_after": "soon"}, None),
        ({"retry_after": "-1"}, None),
    ],
)
def test_retry_after(status: int, headers: dict[str, str], seconds: float | None) -> None:
    meaning = judged(LATER, error(status, "SlowDown", **headers))
    assert isinstance(meaning, TryAgain)
    assert meaning.retry_after == seconds


SECRET = "5ec2e7"
LEAKS = [
    f"Only one auth mechanism allowed, not Bearer SG.{SECRET}",
    f"https://bucket.s3.amazonaws.com/x.csv?X-Amz-Signature={SECRET}",
    f"X-Amz-Credential: {SECRET}",
    f"https://user:{SECRET}@host/",
    f"AWSAccessKeyId={SECRET}&amp;Signature={SECRET}",
]


@pytest.mark.parametrize("status", [301, 400, 403, 404, 418, 500, 503])
@pytest.mark.parametrize("leak", LEAKS)
def test_no_secret_of_the_body_is_in_a_reason(status: int, leak: str) -> None:
    echoed = f"<ArgumentValue>{SECRET}</ArgumentValue><StringToSign>{SECRET}</StringToSign>"
    long = leak + " and more" * 1000
    for seen in (error(status, "Code", long, echoed), error(status, long), answer(status, leak)):
        meaning = judged(FIRST, seen)
        assert SECRET not in repr(meaning)
        assert SECRET not in repr(seen)
        assert len(repr(meaning)) < 600


@pytest.mark.parametrize("part", [LEAKS[1], "bytes " + "9" * 5000])
def test_no_secret_of_a_header_is_in_a_reason(part: str) -> None:
    meaning = judged(LATER, answer(206, part=part))
    assert SECRET not in repr(meaning)
    assert len(repr(meaning)) < 500


PARTS = st.builds(
    "{}{}-{}/{}".format,
    st.sampled_from(["bytes ", "", "bytes=", "bytes -"]),
    st.sampled_from([0, 100, 900, 5]),
    st.sampled_from([99, 199, 999, 49]),
    st.sampled_from([1000, 100, 50, "*"]),
)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.sampled_from([FIRST, LATER, TO_THE_END]), PARTS, st.sampled_from([None, "100", "7"]))
def test_bytes_are_received_only_if_they_are_those_asked_for(
    asked: Asked, part: str, length: str | None
) -> None:
    meaning = judged(asked, answer(206, part=part, length=length))
    if isinstance(meaning, Receive):
        assert meaning.total is not None
        end = meaning.total if asked.end is None else min(asked.end, meaning.total)
        assert part == f"bytes {asked.start}-{end - 1}/{meaning.total}"
        assert length in {None, str(end - asked.start)}
