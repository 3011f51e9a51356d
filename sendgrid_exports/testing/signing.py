"""Links as S3 presigns them: a query that is valid for one path, for GET, for a while.

The signature covers method, path and query byte for byte as they were sent, so a client that
re-quotes a link breaks it. S3's own rules:
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import parse_qs, quote

import attrs

__all__ = ["LinkSigner", "Verdict"]

_STAMP: Final = "%Y%m%dT%H%M%SZ"
_SIGNATURE: Final = "&X-Amz-Signature="


@attrs.frozen
class Verdict:
    """What the storage makes of a link: `code` is S3's, empty where the link is good."""

    code: str
    message: str = ""
    lifetime: int = 0
    expires: datetime | None = None


class LinkSigner:
    """Signs links and judges them; `revoke` kills all that were signed so far."""

    def __init__(self, seed: int) -> None:
        self._secret = hashlib.sha256(f"links of {seed}".encode()).digest()
        self._signed = 0
        self._revoked = 0

    def sign(self, path: str, *, now: datetime, lifetime: float) -> str:
        """Return the query for `path`, valid for `lifetime` seconds (rounded up, as S3 has it)."""
        self._signed += 1
        date = now.strftime(_STAMP)
        # A serial number in the token makes every link another one, and lets old ones be revoked.
        noise = hashlib.sha512(self._secret + str(self._signed).encode()).digest()
        token = base64.b64encode(self._signed.to_bytes(6, "big") + noise).decode()
        fields = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"ASIAFAKESENDGRID/{date[:8]}/us-west-2/s3/aws4_request",
            "X-Amz-Date": date,
            "X-Amz-Expires": str(math.ceil(lifetime)),
            "X-Amz-Security-Token": token,
            "X-Amz-SignedHeaders": "host",
        }
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())
        return query + _SIGNATURE + self._signature("GET", path, query)

    def revoke(self) -> None:
        """Make every link signed so far an expired one."""
        self._revoked = self._signed

    def judge(self, method: str, path: str, query: str, *, now: datetime) -> Verdict:
        """Say whether a request that starts `now` is let in."""
        signed, separator, signature = query.partition(_SIGNATURE)
        if not separator:
            return Verdict("AccessDenied", "Access Denied")
        if not hmac.compare_digest(
            signature.encode(), self._signature(method, path, signed).encode()
        ):
            return Verdict(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your key and signing method.",
            )
        # Ours, since the signature holds: the fields are there and well formed.
        fields = {name: values[0] for name, values in parse_qs(signed).items()}
        lifetime = int(fields["X-Amz-Expires"])
        date = datetime.strptime(fields["X-Amz-Date"], _STAMP).replace(tzinfo=UTC)
        expires = date + timedelta(seconds=lifetime)
        serial = int.from_bytes(base64.b64decode(fields["X-Amz-Security-Token"])[:6], "big")
        if serial <= self._revoked:
            expires = min(expires, now - timedelta(seconds=1))
        if now >= expires:
            return Verdict("AccessDenied", "Request has expired", lifetime, expires)
        return Verdict("", "", lifetime, expires)

    def _signature(self, method: str, path: str, query: str) -> str:
        text = f"{method}\n{path}\n{query}"
        return hmac.new(self._secret, text.encode(), hashlib.sha256).hexdigest()
