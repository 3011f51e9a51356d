"""Buckets: S3, Google Cloud Storage, Azure, and obstore's local and memory stores.

Small objects are read and written by blocking methods, which the callers run in threads: whatever
becomes of a task, such a request has ended when the thread has. Uploads are asynchronous.
"""

from __future__ import annotations

import asyncio
import io
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

import attrs

from sendgrid_exports.disk import unbroken
from sendgrid_exports.errors import CorruptDownloadError, DownloadError, IncompleteDownloadError
from sendgrid_exports.redaction import redact_text, redact_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["SCHEMES", "Bucket", "BucketFile", "ConflictError", "Stored", "Upload"]

logger = logging.getLogger(__name__)

SCHEMES = ("s3", "gs", "az", "memory")
"""How the urls of buckets begin."""

_READ = 4 * 1024 * 1024

_STATUS = re.compile(r"status(?: code)?: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
# Whoever completes a blob of Azure drops what others have sent of it:
# https://learn.microsoft.com/rest/api/storageservices/put-block-list
_LOST_BLOCKS = "InvalidBlockList"
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound"}
# Of what is not in the environment.
_LACKING = re.compile(r"error: (?:Missing|Account must be specified)")
# Where obstore asks for credentials that are not in the environment.
_CREDENTIAL_SERVERS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
_SET_CREDENTIALS = (
    "Set the credentials in the environment as obstore reads it (AWS_ACCESS_KEY_ID, "
    "GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME and others), or pass "
    "Bucket(store) with a store that has them."
)

# The stores of `memory://` urls live as long as the process.
_memories: dict[str, Any] = {}


class ConflictError(Exception):
    """An object is not as it was when it was read: someone else has written it."""


@attrs.frozen
class Stored:
    """An object in a bucket.

    Attributes:
        name: its key below the bucket's prefix.
        size: its bytes.
        etag: its entity tag as the store writes it, or None.
        version: the store's own number of this version, or None.
    """

    name: str
    size: int
    etag: str | None
    version: str | None = None


class Bucket:
    """A bucket, or what is below a prefix in it, in the place of a directory.

    It needs the extra `cloud`. `str()` is its url, which has no credentials.

        Bucket(S3Store("backups", region="eu-west-1"), "sendgrid")

    Args:
        store: a store of obstore, with the credentials and settings that it needs.
        prefix: what the keys begin with, without the slash that follows it.
        root: what the url begins with, in place of what the store says.

    Attributes:
        url: where it is: `s3://bucket/prefix`, `gs://`, `az://container/prefix`, `file://` or
            `memory://`.

    Raises:
        ImportError: obstore is not installed; the message has the line that installs it.
        TypeError, ValueError: an argument can't be used.
    """

    def __init__(self, store: ObjectStore, prefix: str = "", *, root: str | None = None) -> None:
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be text, not {type(prefix).__name__}")
        self._store = store
        self._from_url = root is not None
        self._root = root or _root_of(store)
        self._prefix = prefix.strip("/")
        if self._prefix and {"", ".", ".."} & set(self._prefix.split("/")):
            raise ValueError(f"prefix must not have empty parts, '.' or '..': {prefix!r}")
        self.url = f"{self._root}/{self._prefix}" if self._prefix else self._root

    @classmethod
    def from_url(cls, url: str) -> Bucket:
        """Return the bucket of a url, with the credentials of the environment.

        `s3://bucket/prefix`, `gs://bucket/prefix` or `az://container/prefix`, read by obstore's
        `from_url`; the prefix is taken as it is, without decoding. `memory://name/prefix` lives as
        long as the process.

        Raises:
            ImportError: obstore is not installed.
            ValueError: it is not such a url, or holds credentials.
            DownloadError: the environment does not say all that the store needs.
        """
        shown = redact_url(url)
        try:
            parts = urlsplit(url)
        except ValueError:
            raise ValueError("target is not a url that can be read") from None
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                f"target must be a url without user, password, query and fragment: {shown}. "
                f"{_SET_CREDENTIALS}"
            )
        if parts.scheme not in SCHEMES or not url.isprintable():
            known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise ValueError(f"target must be a url that begins with {known}, not {shown}")
        root = f"{parts.scheme}://{parts.netloc}"
        if parts.scheme == "memory":
            if root not in _memories:
                _memories[root] = _obstore().store.MemoryStore()
            return cls(_memories[root], parts.path, root=root)
        if not parts.netloc:
            raise ValueError(f"target must name a bucket, as in {root}bucket/prefix")
        stores = _obstore().store
        with _translated(root):
            return cls(stores.from_url(root), parts.path, root=root)

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"Bucket({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bucket) and (self._store, self.url) == (other._store, other.url)

    def __hash__(self) -> int:
        return hash(self.url)

    def __reduce__(self) -> tuple[Any, ...]:
        # A store may hold credentials, which must not get into a pickle.
        if not self._from_url or self.url.startswith("memory:"):
            raise TypeError(f"{self!r} can't be pickled: make it where it is used, of its url")
        return Bucket.from_url, (self.url,)

    @property
    def name(self) -> str:
        """The last part of its url, as of a directory's path."""
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> Bucket:
        """The bucket one part of the prefix higher."""
        return self._at(self._prefix.rpartition("/")[0])

    def __truediv__(self, name: str) -> Bucket:
        """Return the bucket with a prefix longer by `name`."""
        return self._at(self._key(name))

    def _at(self, prefix: str) -> Bucket:
        return Bucket(self._store, prefix, root=self._root if self._from_url else None)

    def url_of(self, name: str) -> str:
        """Return the url of an object."""
        return f"{self.url}/{name}"

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    # Small objects. These methods block.

    def head(self, name: str) -> Stored | None:
        """Return what the store says of an object, or None where there is none.

        Raises:
            DownloadError: the store can't be asked; the message says what to do.
        """
        try:
            with _translated(self.url_of(name), may_miss=True):
                return _stored(name, _obstore().head(self._store, self._key(name)))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> tuple[bytes, Stored] | None:
        """Return a small object whole, or None where there is none.

        Raises:
            DownloadError: as for `head`.
        """
        try:
            with _translated(self.url_of(name), may_miss=True):
                found = _obstore().get(self._store, self._key(name))
                return bytes(found.bytes()), _stored(name, found.meta)
        except FileNotFoundError:
            return None

    def create(self, name: str, data: bytes) -> Stored:
        """Write a small object that is not there yet.

        Raises:
            ConflictError: it is there.
            DownloadError: as for `head`.
        """
        try:
            return self._put(name, data, "create")
        except NotImplementedError:
            if self.head(name) is not None:
                raise ConflictError(self.url_of(name)) from None
            return self._put(name, data, "overwrite")

    def update(self, name: str, data: bytes, known: Stored) -> Stored:
        """Replace a small object that is still the one that is `known`.

        A store without conditional writes, such as a local one, is asked before it is written: two
        writers within the same moment are not noticed there.

        Raises:
            ConflictError: it is another one, or gone.
            DownloadError: as for `head`.
        """
        tags = {"e_tag": known.etag, "version": known.version}
        mode = {key: value for key, value in tags.items() if value is not None}
        try:
            return self._put(name, data, mode)
        except NotImplementedError:
            seen = self.head(name)
            if seen is None or seen.etag != known.etag:
                raise ConflictError(self.url_of(name)) from None
            return self._put(name, data, "overwrite")

    def _put(self, name: str, data: bytes, mode: Any) -> Stored:
        with _translated(self.url_of(name)):
            put = _obstore().put(self._store, self._key(name), data, mode=mode)
        return Stored(name, len(data), _quoted(put["e_tag"]), put["version"])

    def delete(self, name: str) -> None:
        """Delete an object, if it is there.

        Raises:
            DownloadError: as for `head`.
        """
        try:
            with _translated(self.url_of(name), may_miss=True):
                _obstore().delete(self._store, self._key(name))
        except FileNotFoundError:
            pass

    def list(self) -> tuple[list[Stored], list[str]]:
        """Return the objects right below the prefix, and the names of longer prefixes; sorted.

        Raises:
            DownloadError: as for `head`.
        """
        start = len(self._prefix) + 1 if self._prefix else 0
        with _translated(self.url):
            found = _obstore().list_with_delimiter(self._store, self._prefix or None)
        objects = [_stored(each["path"][start:], each) for each in found["objects"]]
        folders = sorted(each[start:] for each in found["common_prefixes"])
        return sorted(objects, key=lambda each: each.name), folders

    def check_writable(self, name: str) -> None:
        """See that objects can be written, by one that is deleted again.

        Raises:
            DownloadError: they can't, and no export should be started.
        """
        self._put(name, b"", "overwrite")
        try:
            self.delete(name)
        except DownloadError:
            # It may be allowed to write alone. The next check replaces what is left.
            logger.debug("%s can be written, and nothing in it deleted.", self)

    def read_range(self, stored: Stored, start: int, size: int) -> bytes | memoryview:
        """Return bytes of one version of an object.

        Raises:
            CorruptDownloadError: it was replaced.
            DownloadError: as for `head`.
        """
        url = self.url_of(stored.name)
        options: dict[str, Any] = {"range": (start, min(start + size, stored.size))}
        if stored.etag is not None:
            options["if_match"] = stored.etag
        try:
            with _translated(url, may_miss=True):
                got = _obstore().get(self._store, self._key(stored.name), options=options)
                return memoryview(got.bytes())
        except (ConflictError, FileNotFoundError):
            raise CorruptDownloadError(
                f"{url} was replaced or deleted while it was read. Read it again.", url=url
            ) from None

    # Uploads

    @contextmanager
    def writing(self, name: str, *, part: int, parts: int) -> Iterator[BinaryIO]:
        """Open an object for writing; it appears when the block ends, unless it fails.

        Args:
            name: as for `upload`.
            part: as for `upload`.
            parts: as for `upload`.

        Raises:
            DownloadError: as for `head`.
        """
        url = self.url_of(name)
        with _translated(url):
            writer = _obstore().open_writer(
                self._store, self._key(name), buffer_size=part, max_concurrency=parts
            )
        try:
            yield cast("BinaryIO", _ObjectWriter(writer, url))
        except BaseException as error:
            try:
                writer.__exit__(type(error), error, None)
            except Exception as failed:  # noqa: BLE001
                _warn_of_upload(url, failed)
            raise
        with _translated(url):
            writer.close()

    @asynccontextmanager
    async def upload(self, name: str, *, part: int, parts: int) -> AsyncIterator[Upload]:
        """Open an upload, which is an object only once it is finished.

        When the block ends before that, the upload is aborted, also by a cancellation. That waits
        for the store's answer. It takes up to `part * (parts + 1)` bytes of memory.

        Args:
            name: the object's key below the prefix.
            part: bytes that are sent at once. S3 takes no fewer than 5 MiB, and 10,000 parts.
            parts: how many are sent at the same time.

        Raises:
            DownloadError: as for `head`.
        """
        writer = _obstore().open_writer_async(
            self._store, self._key(name), buffer_size=part, max_concurrency=parts
        )
        upload = Upload(writer, self.url_of(name), part)
        try:
            yield upload
        finally:
            await upload.abort()


def _warn_of_upload(url: str, error: Exception) -> None:
    logger.warning(
        "An unfinished upload of %s may be left in the bucket (%s). A lifecycle rule for "
        "incomplete multipart uploads removes it.",
        url,
        _said(error),
    )


@attrs.frozen
class BucketFile:
    """An object to be read, with as much of a path's interface as readers of files need.

    Attributes:
        bucket: where it is.
        stored: the object; reading it meets this version of it alone.
    """

    bucket: Bucket
    stored: Stored

    def __str__(self) -> str:
        return self.bucket.url_of(self.name)

    @property
    def name(self) -> str:
        """Its key below the bucket's prefix."""
        return self.stored.name

    def open(self, mode: str) -> io.BufferedReader:
        """Open it for reading; `mode` is `rb`.

        Reading raises:
            CorruptDownloadError: it was replaced meanwhile.
            DownloadError: as for `Bucket.head`.
        """
        assert mode == "rb"
        return io.BufferedReader(_ObjectReader(self), _READ)


class Upload:
    """An object on its way into a bucket; see `Bucket.upload`."""

    def __init__(self, writer: Any, url: str, part: int) -> None:
        self._writer = writer
        self._url = url
        self._part = part
        self._written = 0
        self._ended = False

    async def write(self, block: bytes | memoryview) -> None:
        """Take the next bytes, which are copied.

        Raises:
            DownloadError: the store refused them, or those before.
        """
        # The writer keeps what it gets until it is sent, and a block is reused before that.
        data = bytes(block)
        begins = self._written < self._part <= self._written + len(data)
        self._written += len(data)
        with _translated(self._url):
            writing = asyncio.ensure_future(self._writer.write(data))
            # Cancelled while it begins, a multipart upload could not be aborted any more.
            await (unbroken(writing) if begins else writing)

    async def finish(self) -> None:
        """Complete the upload; a cancellation meanwhile waits for that.

        Raises:
            ConflictError: what was sent is lost, since another upload of it was completed.
            DownloadError: the store refused it.
        """
        # The writer itself aborts what it can't complete.
        self._ended = True
        with _translated(self._url):
            await unbroken(asyncio.ensure_future(self._writer.close()))

    async def abort(self) -> None:
        """Drop what was sent, unless the upload is finished."""
        if self._ended:
            return
        self._ended = True
        error = ConflictError("aborted")
        try:
            await unbroken(asyncio.ensure_future(self._writer.__aexit__(type(error), error, None)))
        except Exception as failed:  # noqa: BLE001
            # What ended the upload is the error to report.
            _warn_of_upload(self._url, failed)


def _root_of(store: Any) -> str:
    stores = _obstore().store
    inside = getattr(store, "prefix", None)
    if isinstance(store, stores.S3Store):
        root = f"s3://{store.config['bucket']}"
    elif isinstance(store, stores.GCSStore):
        root = f"gs://{store.config['bucket']}"
    elif isinstance(store, stores.AzureStore):
        root = f"az://{store.config['container_name']}"
    elif isinstance(store, stores.LocalStore):
        return Path(inside or "/").absolute().as_uri().rstrip("/")
    elif isinstance(store, stores.MemoryStore):
        root = "memory://"
    else:
        raise TypeError(f"store must be a store of obstore, not {type(store).__name__}")
    return f"{root}/{inside}" if inside else root


class _ObjectReader(io.RawIOBase):
    """The bytes of an object, in ranges, so that a slow reader meets no timeout."""

    def __init__(self, file: BucketFile) -> None:
        self._bucket, self._stored = file.bucket, file.stored
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._stored.size}
        self._position = max(0, start[whence] + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._stored.size or not len(buffer):
            return 0
        data = memoryview(self._bucket.read_range(self._stored, self._position, len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _ObjectWriter(io.RawIOBase):
    """An object on its way into a bucket, as a file."""

    def __init__(self, writer: Any, url: str) -> None:
        self._writer = writer
        self._url = url
        self._position = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        # The writer keeps what it gets until it is sent, and a buffer is reused before that.
        with _translated(self._url):
            self._writer.write(bytes(data))
        self._position += len(data)
        return len(data)


def _obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise ImportError(
            "A bucket needs obstore, which is not installed: pip install 'sendgrid-exports[cloud]'",
            name="obstore",
        ) from None
    return obstore


def _stored(name: str, meta: Any) -> Stored:
    return Stored(name, meta["size"], _quoted(meta["e_tag"]), meta["version"])


def _quoted(etag: str | None) -> str | None:
    # Azure quotes it in a response's head (RFC 9110 section 8.8.3), and not in a listing.
    return etag if etag is None or etag.endswith('"') else f'"{etag}"'


# Errors. What obstore says may hold requests and what was signed: little of it is quoted.


@contextmanager
def _translated(url: str, *, may_miss: bool = False) -> Iterator[None]:
    """Raise errors of obstore as ours.

    Raises:
        ConflictError: a condition was not met.
        FileNotFoundError: the object is not there, which it `may_miss`.
        NotImplementedError: the store can't do that.
        DownloadError: anything else.
    """
    from obstore import exceptions

    try:
        yield
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
        raise ConflictError(url) from None
    except NotImplementedError:
        raise
    except FileNotFoundError as error:
        if not may_miss or _codes(error)[1] in _NO_BUCKET:
            raise _error(error, url) from None
        raise
    except (exceptions.BaseError, OSError, ValueError) as error:
        if _codes(error)[1] == _LOST_BLOCKS:
            raise ConflictError(url) from None
        raise _error(error, url) from None


def _error(error: Exception, url: str) -> DownloadError:
    from obstore import exceptions

    status, code = _codes(error)
    said, text = _said(error), str(error)
    kind = DownloadError
    if _LACKING.search(text):
        advice = _SET_CREDENTIALS
    elif isinstance(error, FileNotFoundError):
        said = "there is no such bucket"
        advice = "Make it, or correct the url."
    elif isinstance(error, exceptions.UnauthenticatedError) or any(
        server in text for server in _CREDENTIAL_SERVERS
    ):
        said = "the store knows no such credentials" if status else "there are no credentials"
        advice = _SET_CREDENTIALS
    elif isinstance(error, exceptions.PermissionDeniedError) or status == 403:
        advice = "Allow the credentials to read, write and list objects there."
    elif status == 429 or (status or 0) >= 500 or "HTTP error" in text:
        kind = IncompleteDownloadError
        advice = "Try again later with the same id: what is complete is kept."
    else:
        advice = "Check the url, and the store's settings in the environment."
    return kind(f"{url} can't be used: {said}. {advice}", url=url, status=status, code=code)


def _codes(error: Exception) -> tuple[int | None, str | None]:
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    return int(status[1]) if status else None, code[1] if code else None


def _said(error: Exception) -> str:
    status, code = _codes(error)
    if status is not None:
        return f"the store answered {status}" + (f" {code}" if code else "")
    return redact_text(str(error).partition("\n")[0]).rstrip(".")
