"""JSON to models and back, with a readable path for whatever does not fit.

Models know nothing of JSON: every quirk of the wire is in the hooks here. Unknown fields are
ignored, a null field is the same as a missing one, an unknown status is pending.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import GenericAlias
from typing import Any, TypeVar, get_args

import attrs
from cattrs import BaseValidationError, Converter, transform_error
from cattrs.gen import make_dict_structure_fn, override

from sendgrid_exports.errors import InvalidResponseError
from sendgrid_exports.models import (
    ContactExport,
    ErrorDetail,
    ExportListing,
    ExportMetadata,
    ExportStatus,
    NamedId,
    Subuser,
)
from sendgrid_exports.redaction import redact_page, redact_text

__all__ = ["decode", "encode", "parse_json", "read_time"]

T = TypeVar("T")

# RFC 3339, or as Go prints times. Python alone reads more, such as dates without a time.
_TIME = re.compile(
    r"(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,9})?)"
    r"\s*(?:(Z|[+-]\d\d:?\d\d)(?: [A-Z]{1,5})?)?",
    re.ASCII | re.IGNORECASE,
)


def parse_json(body: bytes, what: str) -> object:
    """Return the value of a JSON text.

    Raises:
        InvalidResponseError: it is not JSON, or nested too deeply to read.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        text = body[:2000].decode("utf-8", "replace")
        quoted = redact_page(text) or redact_text(text) or "(nothing)"
        raise InvalidResponseError(
            f"{what} is not JSON: {quoted}", problems=(f"{type(error).__name__} @ $",)
        ) from None


def decode(cls: type[T], value: object, what: str, *, path: str = "$") -> T:
    """Return `value`, as JSON gave it, as a `cls`; `path` is where it stood in the body.

    Raises:
        InvalidResponseError: it does not fit; `problems` has a path for each misfit.
    """
    try:
        return _converter.structure(value, cls)
    except (BaseValidationError, ValueError, TypeError) as error:
        problems = tuple(redact_text(problem) for problem in _problems(error, path))
    raise InvalidResponseError(
        f"{what} is not what is documented: {'; '.join(problems)}", problems=problems
    )


def _problems(error: Exception, path: str) -> list[str]:
    if isinstance(error, BaseValidationError):
        problems = transform_error(error, path, format_exception=_describe)
        return [problem.replace("$.metadata", "$._metadata") for problem in problems]
    return [f"{_describe(error, None)} @ {path}"]


def _describe(error: BaseException, type_: Any) -> str:
    if isinstance(error, KeyError):
        return "required field missing"
    return str(error) or type(error).__name__


def encode(value: object) -> Any:
    """Return an attrs object as what JSON can hold."""
    return _converter.unstructure(value)


def read_time(value: object) -> datetime | None:
    """Return a time in any of SendGrid's spellings as an aware datetime; None where it is absent.

    RFC 3339 with up to nine fractional digits, and Go's `2006-01-02 15:04:05 +0000 UTC`; without
    a zone it is UTC. Absent is also written as an empty text or as the year 1.

    Raises:
        ValueError: anything else.
    """
    if value is None or value == "":
        return None
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected a time, not {_shown(value)}")
    if int(found[1][:4]) <= 1:
        return None
    try:
        # The pattern admits small letters, which fromisoformat does not.
        return datetime.fromisoformat(f"{found[1]}{found[2] or 'Z'}".upper()).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"time out of range: {_shown(value)}") from None


def _shown(value: object) -> str:
    return redact_text(repr(value), longest=80)


def _structure_text(value: object, _: object) -> str:
    if isinstance(value, str):
        # JSON can spell half a surrogate pair, which nothing can write again.
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"expected text, not {_shown(value)}")


def _structure_whole(value: object, _: object) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TypeError(f"expected a whole number, not {_shown(value)}")


def _structure_bool(value: object, _: object) -> bool:
    if isinstance(value, bool):
        return value
    raise TypeError(f"expected true or false, not {_shown(value)}")


def _structure_status(value: object, _: object) -> ExportStatus:
    try:
        return ExportStatus(_structure_text(value, str))
    except ValueError:
        return ExportStatus.PENDING


def _structure_tuple(value: object, type_: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected an array, not {_shown(value)}")
    array: Any = GenericAlias(list, get_args(type_)[:1])
    return tuple(_converter.structure(value, array))


def _structure_texts(value: object, _: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected an object, not {_shown(value)}")
    return {_structure_text(name, str): _structure_text(text, str) for name, text in value.items()}


# What SendGrid sends, with the fields that have another name on the wire.
_RENAMED: dict[type, dict[str, str]] = {
    ContactExport: {"metadata": "_metadata"},
    ErrorDetail: {},
    ExportListing: {},
    ExportMetadata: {"self_": "self"},
    NamedId: {"id": "ID", "name": "Name"},
    Subuser: {},
}


def _structure_absent_or(cls: Any) -> Callable[[Any, Any], Any]:
    """Return a hook for an object in which null is absent; made when first needed."""
    structure = make_dict_structure_fn(
        cls,
        _converter,
        _cattrs_detailed_validation=True,
        **{name: override(rename=wire) for name, wire in _RENAMED[cls].items()},  # type: ignore[arg-type]
    )

    keeps_status = "status_text" in attrs.fields_dict(cls)

    def hook(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise TypeError(f"expected an object, not {_shown(value)}")
        present = {name: item for name, item in value.items() if item is not None}
        status = present.get("status")
        if keeps_status and isinstance(status, str | int) and not isinstance(status, bool):
            present["status_text"] = status
        return structure(present, cls)

    return hook


def _make_converter() -> Converter:
    converter = Converter(detailed_validation=True)
    converter.register_structure_hook(str, _structure_text)
    converter.register_structure_hook(int, _structure_whole)
    converter.register_structure_hook(bool, _structure_bool)
    converter.register_structure_hook(datetime, lambda value, _: _required_time(value))
    converter.register_structure_hook(datetime | None, lambda value, _: read_time(value))
    converter.register_structure_hook_func(
        lambda type_: isinstance(type_, GenericAlias) and type_.__args__[1:] == (...,),
        _structure_tuple,
    )
    converter.register_structure_hook_func(
        lambda type_: type_ == Mapping[str, str], _structure_texts
    )
    converter.register_structure_hook_factory(lambda type_: type_ in _RENAMED, _structure_absent_or)
    converter.register_structure_hook(ExportStatus, _structure_status)
    converter.register_structure_hook(Path, lambda value, _: Path(_structure_text(value, str)))
    converter.register_unstructure_hook(datetime, _write_time)
    converter.register_unstructure_hook(Path, str)
    return converter


def _required_time(value: object) -> datetime:
    moment = read_time(value)
    if moment is None:
        raise ValueError("expected a time, not its absence")
    return moment


def _write_time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


_converter = _make_converter()
