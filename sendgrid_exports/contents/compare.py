"""Two exports compared: which contacts were added, removed and changed. Blocking.

DuckDB and pyarrow are the extra `compare`, loaded when it is first used.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sendgrid_exports.contents.files import Source, find_files, require
from sendgrid_exports.models import ComparisonSummary, ContactChange

if TYPE_CHECKING:
    from sendgrid_exports.contents.differences import Differences

__all__ = ["Comparison", "compare_exports"]


class Comparison:
    """The differences between two exports; iterate over it as often as needed.

    The summary is counted by the database: ask for it first, where there may be many changes.
    """

    def __init__(self, differences: Differences) -> None:
        self._differences = differences

    def __iter__(self) -> Iterator[ContactChange]:
        """Yield every contact that was added, removed or changed, in no particular order."""
        return self._differences.changes()

    @cached_property
    def summary(self) -> ComparisonSummary:
        """How many contacts were added, removed, changed and left unchanged."""
        return self._differences.summary()


@contextmanager
def compare_exports(
    old: Source,
    new: Source,
    *,
    old_export_id: str | None = None,
    new_export_id: str | None = None,
    ignore: Collection[str] = (),
) -> Iterator[Comparison]:
    """Compare two exports, CSV or JSON, contact by contact.

        with compare_exports("monday", "tuesday") as comparison:
            added = comparison.summary.added
            for change in comparison:
                ...

    Contacts are matched by CONTACT_ID. Texts are equal only if every character is: "007" is not
    "7". Times are compared as times, alternate emails as a list in its order. A column that one
    export lacks is empty there, and so equal to an empty value. A contact that is in an export
    several times, the same each time, counts once. Columns are called as `read_contacts` calls
    them, of CSV and of JSON.

    Memory is bounded, for millions of contacts too; what does not fit goes to a temporary
    directory (`TMPDIR`), which is removed at the end.

    Args:
        old: a finished download, a path, several paths, a directory or a bucket.
        new: as `old`.
        old_export_id: which export, where the directory `old` holds several.
        new_export_id: which export, where the directory `new` holds several.
        ignore: columns that are not compared, such as `UPDATED_AT`.

    Raises:
        ImportError: DuckDB or pyarrow is not installed.
        TypeError: `old` or `new` is not something that can be read.
        ValueError: one of them names nothing or several exports, or `ignore` a column that
            neither has.
        DownloadError: an export is not in its directory, or not all of it; a contact has no
            CONTACT_ID, or is in one export several times with different values.
        CorruptDownloadError: a file is broken.
        OSError: a file can't be read, or no temporary directory made.
    """
    require("compare", "pyarrow", "duckdb")
    from sendgrid_exports.contents.batches import survey
    from sendgrid_exports.contents.differences import Differences

    old_parts = survey(find_files(old, old_export_id))
    new_parts = survey(find_files(new, new_export_id))
    with (
        _temporary_directory() as directory,
        closing(Differences(old_parts, new_parts, ignore, Path(directory))) as differences,
    ):
        yield Comparison(differences)


def _temporary_directory() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="sendgrid-exports-")
    except OSError as error:
        said = (
            f"{error.strerror}: what does not fit into memory needs a temporary directory. Set "
            "TMPDIR to a directory that can be written to and has room for both exports"
        )
        raise OSError(error.errno, said, error.filename) from error
