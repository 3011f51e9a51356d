"""Two exports compared: which contacts came, went and changed. Blocking.

DuckDB and pyarrow are the extra `compare`: `pip install 'sendgrid-exports[compare]'`.
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
    """What is different between two exports: iterate over it, as often as you like."""

    def __init__(self, differences: Differences) -> None:
        self._differences = differences

    def __iter__(self) -> Iterator[ContactChange]:
        """Yield every contact that came, went or changed, in no particular order."""
        return self._differences.changes()

    @cached_property
    def summary(self) -> ComparisonSummary:
        """How many contacts came, went, changed and stayed as they were."""
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

    Contacts are told apart by CONTACT_ID. Texts are the same only if every character is: "007"
    is not "7". Times are compared as times, alternate emails as a list, in their order. A column
    that one export lacks is empty there, which is no difference from an empty value. A contact
    that is in an export several times, the same each time, counts once.

    Memory is bounded, for millions of contacts too; what does not fit is in a temporary directory
    (`TMPDIR`), which is removed in the end.

    Args:
        old: a finished download, a path, several paths, or a directory.
        new: likewise.
        old_export_id: which export, where the directory `old` holds several.
        new_export_id: which export, where the directory `new` holds several.
        ignore: columns that don't count, such as `UPDATED_AT`.

    Raises:
        ImportError: DuckDB or pyarrow is not installed.
        TypeError: `old` or `new` is nothing that can be read.
        ValueError: one of them names nothing or several exports, or `ignore` a column that
            neither has.
        DownloadError: an export is not in its directory, or not all of it; a contact has no
            CONTACT_ID, or is in one export several times with different values.
        CorruptDownloadError: a file is broken.
        OSError: a file can't be read.
    """
    require("compare", "pyarrow", "duckdb")
    from sendgrid_exports.contents.batches import survey
    from sendgrid_exports.contents.differences import Differences

    old_parts = survey(find_files(old, old_export_id))
    new_parts = survey(find_files(new, new_export_id))
    with (
        tempfile.TemporaryDirectory(prefix="sendgrid-exports-") as directory,
        closing(Differences(old_parts, new_parts, ignore, Path(directory))) as differences,
    ):
        yield Comparison(differences)
