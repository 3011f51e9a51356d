"""What an error of obstore becomes: what was seen, what to do, and no secret."""

from __future__ import annotations

import pickle

import pytest
from obstore import exceptions

from sendgrid_exports import DownloadError, IncompleteDownloadError
from sendgrid_exports.bucket_errors import ConflictError, translated

URL = "s3://bucket/key"
REFUSED = """Error performing PUT https://bucket/key?sig=s3cr3t in 15ms - Server returned non-2xx
status code: {status} Reason: <Error><Code>{code}</Code><StringToSign>s3cr3t</StringToSign></Error>

Debug source:
    uri: https://bucket/key?sig=s3cr3t"""


def answered(status: int, code: str) -> str:
    return REFUSED.format(status=status, code=code).replace("non-2xx\n", "non-2xx ")


CASES = [
    (
        exceptions.PermissionDeniedError(answered(403, "AccessDenied")),
        DownloadError,
        "the store answered 403 AccessDenied. Allow the credentials",
    ),
    (
        exceptions.GenericError(answered(403, "SignatureDoesNotMatch")),
        DownloadError,
        "the store answered 403 SignatureDoesNotMatch. Allow the credentials",
    ),
    (
        exceptions.UnauthenticatedError(answered(401, "InvalidToken")),
        DownloadError,
        "the store knows no such credentials. Set the credentials",
    ),
    (
        exceptions.GenericError(
            "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token - "
            "HTTP error: error sending request"
        ),
        DownloadError,
        "there are no credentials. Set the credentials",
    ),
    (
        exceptions.GenericError("Generic S3 error: Missing AccessKeyId"),
        DownloadError,
        "Missing AccessKeyId. Set the credentials",
    ),
    (
        FileNotFoundError(answered(404, "NoSuchBucket")),
        DownloadError,
        "the bucket does not exist. Make it",
    ),
    (
        exceptions.GenericError(answered(503, "SlowDown")),
        IncompleteDownloadError,
        "the store answered 503 SlowDown. Try again later",
    ),
    (
        exceptions.GenericError(answered(429, "TooManyRequests")),
        IncompleteDownloadError,
        "the store answered 429 TooManyRequests. Try again later",
    ),
    (
        exceptions.GenericError(
            "Generic S3 error: Error performing PUT https://h/key?sig=s3cr3t in 1ms - HTTP error: "
            "error sending request\n\nDebug source: s3cr3t"
        ),
        IncompleteDownloadError,
        "HTTP error: error sending request. Try again later",
    ),
    (OSError("Writer already closed."), DownloadError, "Writer already closed. Check the url"),
    (ValueError("Could not parse path"), DownloadError, "Could not parse path. Check the url"),
]


@pytest.mark.parametrize(("error", "kind", "said"), CASES)
def test_an_error_of_the_store_says_what_to_do_and_no_secret(
    error: Exception, kind: type[DownloadError], said: str
) -> None:
    with pytest.raises(DownloadError) as failed, translated(URL):
        raise error
    assert type(failed.value) is kind
    assert str(failed.value).startswith(f"{URL} can't be used: ")
    assert said in str(failed.value)
    assert "s3cr3t" not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__context__ is None
    assert (failed.value.url, failed.value.path) == (URL, None)
    assert str(pickle.loads(pickle.dumps(failed.value))) == str(failed.value)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.AlreadyExistsError("it is there"),
        exceptions.PreconditionError("another ETag"),
        exceptions.GenericError(answered(400, "InvalidBlockList")),
    ],
)
def test_a_condition_that_is_not_met_is_a_conflict(error: Exception) -> None:
    with pytest.raises(ConflictError), translated(URL):
        raise error


@pytest.mark.parametrize("error", [NotImplementedError("update"), KeyError("ours"), RuntimeError()])
def test_what_is_not_about_the_store_is_left_alone(error: Exception) -> None:
    with pytest.raises(type(error)), translated(URL):
        raise error


def test_a_missing_object_is_one_only_where_it_may_be_missing() -> None:
    with pytest.raises(FileNotFoundError), translated(URL, may_miss=True):
        raise FileNotFoundError(answered(404, "NoSuchKey"))
    with pytest.raises(DownloadError), translated(URL, may_miss=True):
        raise FileNotFoundError(answered(404, "NoSuchBucket"))
