"""Which records of the journal a download can resume from."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from sendgrid_exports.transfer.journal import Record
from sendgrid_exports.transfer.part import is_usable

LINK = "https://storage.example/bucket/a.csv.gzip"
RECORD = Record(number=1, link=LINK, etag='"one"', total=100, done=((0, 10), (50, 80)))


@pytest.mark.parametrize(
    ("changes", "size", "usable"),
    [
        pytest.param({}, 80, True, id="the part file ends with the last durable byte"),
        pytest.param({}, 100, True, id="it is longer"),
        pytest.param({}, 79, False, id="it is too short"),
        pytest.param({}, 0, False, id="there is none"),
        pytest.param({"done": ((0, 100),)}, 100, True, id="all is durable"),
        pytest.param({"done": ((50, 80), (0, 10))}, 10, False, id="the ranges in any order"),
        pytest.param({"done": ()}, 100, False, id="nothing is durable"),
        pytest.param({"etag": ""}, 100, False, id="nothing pins the version"),
        pytest.param({"link": LINK.replace("/a.", "/b.")}, 100, False, id="another file's"),
    ],
)
def test_a_record_is_usable_for_the_same_file_with_its_bytes_on_disk(
    changes: dict[str, Any], size: int, usable: bool
) -> None:
    assert is_usable(attrs.evolve(RECORD, **changes), link=LINK, size=size) is usable
