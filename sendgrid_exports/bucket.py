"""Buckets: S3, Google Cloud Storage, Azure, and obstore's local and memory stores.

Small objects are read and written by blocking methods, which the callers run in threads: whatever
becomes of a task, such a request ends with its thread. Uploads are asynchronous.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

from sendgrid_exports.bucket_errors import SET_CREDENTIALS, ConflictError, translated
from sendgrid_exports.bucket_files import ObjectWriter, Stored, Upload, warn_of_upload
from sendgrid_exports.errors import CorruptDownloadError, DownloadError
from sendgrid_exports.redaction import redact_url

if TYPE_CHECKING:
    from obstore.store import ObjectStore

__all__ = ["SCHEMES", "Bucket"]

logger = logging.getLogger(__name__)

SCHEMES = ("s3", "gs", "az", "memory")
"""How the urls of buckets begin."""

# The stores of `memory://` urls live as long as the process.
_memories: dict[str, Any] = {}


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
                f"{SET_CREDENTIALS}"
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
        with translated(root):
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
            with translated(self.url_of(name), may_miss=True):
                return _stored(name, _obstore().head(self._store, self._key(name)))
        except FileNotFoundError:
            return None

    def read(self, name: str) -> tuple[bytes, Stored] | None:
        """Return a small object whole, or None where there is none.

        Raises:
            DownloadError: as for `head`.
        """
        try:
            with translated(self.url_of(name), may_miss=True):
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

    def replace(self, name: str, data: bytes, known: Stored | None) -> Stored:
        """Create a small object, or replace the one that is `known`.

        Raises:
            ConflictError: another one is there, with other bytes, or it is gone.
            DownloadError: as for `head`.
        """
        try:
            return self.create(name, data) if known is None else self.update(name, data, known)
        except ConflictError:
            # A request that is sent again, since its answer was lost, meets its own work.
            found = self.read(name)
            if found is None or found[0] != data:
                raise
            return found[1]

    def _put(self, name: str, data: bytes, mode: Any) -> Stored:
        with translated(self.url_of(name)):
            put = _obstore().put(self._store, self._key(name), data, mode=mode)
        return Stored(name, len(data), _quoted(put["e_tag"]), put["version"])

    def delete(self, name: str) -> None:
        """Delete an object, if it is there.

        Raises:
            DownloadError: as for `head`.
        """
        try:
            with translated(self.url_of(name), may_miss=True):
                _obstore().delete(self._store, self._key(name))
        except FileNotFoundError:
            pass

    def list(self) -> tuple[list[Stored], list[str]]:
        """Return the objects right below the prefix, and the names of longer prefixes; sorted.

        Raises:
            DownloadError: as for `head`.
        """
        start = len(self._prefix) + 1 if self._prefix else 0
        with translated(self.url):
            found = _obstore().list_with_delimiter(self._store, self._prefix or None)
        objects = [_stored(each["path"][start:], each) for each in found["objects"]]
        folders = sorted(each[start:] for each in found["common_prefixes"])
        return sorted(objects, key=lambda each: each.name), folders

    def check_writable(self, name: str) -> None:
        """Check that objects can be written, with one that is then deleted.

        Raises:
            DownloadError: they can't, and no export should be started.
        """
        self._put(name, b"", "overwrite")
        try:
            self.delete(name)
        except DownloadError:
            # Only writing may be allowed. The next check replaces the object that is left.
            logger.debug("%s can be written to, but nothing in it can be deleted.", self)

    def read_range(self, stored: Stored, start: int, size: int) -> memoryview:
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
            with translated(url, may_miss=True):
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
        with translated(url):
            writer = _obstore().open_writer(
                self._store, self._key(name), buffer_size=part, max_concurrency=parts
            )
        try:
            yield cast("BinaryIO", ObjectWriter(writer, url))
        except BaseException as error:
            try:
                writer.__exit__(type(error), error, None)
            except Exception as failed:  # noqa: BLE001
                warn_of_upload(url, failed)
            raise
        with translated(url):
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


def _obstore() -> Any:
    try:
        import obstore
        import obstore.store
    except ModuleNotFoundError as error:
        if error.name != "obstore":
            raise
        raise ImportError(
            "A bucket needs obstore, which is not installed: "
            "pip install 'sendgrid-exports[cloud]', or '.[cloud]' in a checkout",
            name="obstore",
        ) from None
    return obstore


def _stored(name: str, meta: Any) -> Stored:
    return Stored(name, meta["size"], _quoted(meta["e_tag"]), meta["version"])


def _quoted(etag: str | None) -> str | None:
    # Azure quotes it in a response's head (RFC 9110 section 8.8.3), and not in a listing.
    return etag if etag is None or etag.endswith('"') else f'"{etag}"'
