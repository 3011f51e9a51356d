"""Two exports in an embedded database, and what is different between them. Blocking.

DuckDB joins them by CONTACT_ID with a fixed amount of memory; what does not fit is in a directory
of the caller's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sendgrid_exports.contents.batches import Table, open_reader, unite
from sendgrid_exports.contents.columns import join_emails
from sendgrid_exports.errors import DownloadError
from sendgrid_exports.models import ChangeKind, ComparisonSummary, ContactChange, FieldChange

__all__ = ["Differences"]

_MEMORY = "256MB"
_ROWS = 1000


class Differences:
    """What is different between the contacts of two exports.

    Args:
        old, new: the files of each.
        ignore: columns whose values do not count.
        directory: for what does not fit into memory.

    Raises:
        CorruptDownloadError: a file is broken.
        DownloadError: a contact has no CONTACT_ID, or two different ones have the same.
        ValueError: `ignore` names CONTACT_ID, or a column that neither export has.
    """

    def __init__(
        self, old: Sequence[Table], new: Sequence[Table], ignore: Collection[str], directory: Path
    ) -> None:
        schema = unite([*old, *new], {})
        if unknown := set(ignore) - {*schema.names} or {"CONTACT_ID"} & set(ignore):
            raise ValueError(f"ignore must name columns to compare, not {min(unknown)!r}")
        # The database takes "Plan" and "plan" for one name, and so it gets others.
        self._id = f"c{schema.names.index('CONTACT_ID')}"
        self._columns = {
            f"c{place}": name
            for place, name in enumerate(schema.names)
            if name not in {"CONTACT_ID", *ignore}
        }
        self._database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": _MEMORY,
                "temp_directory": str(directory),
                "threads": 2,
                "preserve_insertion_order": False,
            },
        )
        try:
            with _interruptible():
                # The bar is drawn on standard output, which is the caller's.
                self._database.execute("SET enable_progress_bar = false")
                for name, parts in (("old", old), ("new", new)):
                    self._load(name, parts, schema)
                self._compare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _load(self, name: str, parts: Sequence[Table], schema: pa.Schema) -> None:
        failures: list[BaseException] = []
        plain = pa.schema(
            [(f"c{place}", _type_without_zone(field.type)) for place, field in enumerate(schema)]
        )

        def batches() -> Iterator[pa.RecordBatch]:
            try:
                for batch in open_reader(parts, schema, {}):
                    yield pa.record_batch(list(map(_without_zone, batch)), schema=plain)
            except (Exception, KeyboardInterrupt) as error:
                # The database would only keep its text.
                failures.append(error)
                raise

        self._database.register("batches", pa.RecordBatchReader.from_batches(plain, batches()))
        try:
            self._database.execute(f"CREATE TABLE {name} AS SELECT * FROM batches")
        except duckdb.Error as error:
            raise (failures or [error])[0] from None
        finally:
            self._database.unregister("batches")
        self._check_ids(name)

    def _check_ids(self, name: str) -> None:
        where = f"the {name} export"
        [(rows, ids, empty)] = self._rows(
            f"SELECT count(*), count(DISTINCT {self._id}), count(*) FILTER ({self._id} = '') "
            f"FROM {name}"
        )
        if empty:
            raise DownloadError(
                f"{empty} contacts of {where} have no CONTACT_ID, by which contacts are matched. "
                "Compare exports as SendGrid wrote them."
            )
        if rows == ids:
            return
        self._database.execute(f"CREATE TABLE once AS SELECT DISTINCT * FROM {name}")
        self._database.execute(f"DROP TABLE {name}")
        self._database.execute(f"ALTER TABLE once RENAME TO {name}")
        twice = self._rows(
            f"SELECT {self._id} FROM {name} GROUP BY {self._id} HAVING count(*) > 1 LIMIT 1"
        )
        if twice:
            raise DownloadError(
                f"The contact {twice[0][0]} is in {where} several times with different values. "
                "Name the files of one export only."
            )

    def _compare(self) -> None:
        differs = " OR ".join(map(_differs, self._columns)) or "false"
        self._database.execute(
            "CREATE TABLE differences AS "
            f"SELECT coalesce(old.{self._id}, new.{self._id}) AS id, "
            f"new.{self._id} IS NULL AS removed, old.{self._id} IS NULL AS added, old, new "
            f"FROM old FULL JOIN new ON old.{self._id} = new.{self._id} "
            f"WHERE added OR removed OR {differs}"
        )

    def summary(self) -> ComparisonSummary:
        """Return how many contacts are different, and in which columns."""
        [(contacts,)] = self._rows("SELECT count(*) FROM old")
        [(added, removed, every)] = self._rows(
            "SELECT count(*) FILTER (added), count(*) FILTER (removed), count(*) FROM differences"
        )
        counts = ", ".join(f"count(*) FILTER ({_differs(place)})" for place in self._columns)
        [by_column] = self._rows(
            f"SELECT {counts or 0} FROM differences WHERE NOT added AND NOT removed"
        )
        changed = every - added - removed
        return ComparisonSummary(
            added=added,
            removed=removed,
            changed=changed,
            unchanged=contacts - removed - changed,
            fields={
                name: count
                for name, count in zip(self._columns.values(), by_column, strict=False)
                if count
            },
        )

    def changes(self) -> Iterator[ContactChange]:
        """Yield what is different, in no particular order."""
        names, width = tuple(self._columns.values()), len(self._columns)
        # As columns of their own: the values of a struct would come as a dict each.
        values = [f"{side}.{place}" for side in ("old", "new") for place in self._columns]
        with _interruptible(), self._database.cursor() as cursor:
            cursor.execute(
                f"SELECT {', '.join(['id', 'added', 'removed', *values])} FROM differences"
            )
            while rows := cursor.fetchmany(_ROWS):
                for contact_id, added, removed, *both in rows:
                    yield ContactChange(
                        contact_id=contact_id,
                        kind=_kind(added=added, removed=removed),
                        fields=tuple(
                            FieldChange(name, _text(old), _text(new))
                            for name, old, new in zip(
                                names, both[:width], both[width:], strict=True
                            )
                            if old != new and (old or new)
                        ),
                    )

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with _interruptible():
            return self._database.execute(query).fetchall()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # DuckDB drops the exception that a signal raises meanwhile.
        if str(error) == "Query interrupted":
            raise KeyboardInterrupt from None
        raise


def _type_without_zone(kind: pa.DataType) -> pa.DataType:
    # A time with a zone is one that DuckDB can't give back without yet another library.
    return pa.timestamp("us") if pa.types.is_timestamp(kind) else kind


def _without_zone(column: pa.Array) -> pa.Array:
    return column.cast(_type_without_zone(column.type))


def _differs(place: str) -> str:
    return f"old.{place} IS DISTINCT FROM new.{place}"


def _kind(*, added: bool, removed: bool) -> ChangeKind:
    return ChangeKind.ADDED if added else ChangeKind.REMOVED if removed else ChangeKind.CHANGED


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z"
    if isinstance(value, list):
        return join_emails(value)
    return "" if value is None else str(value)
