"""What schemathesis shall not send: an address that no HTTP server has to take (RFC 9110, 4.1: 8000 octets)."""

from typing import Any
from urllib.parse import urlencode

import schemathesis

ADDRESS_MAX = 7000


@schemathesis.hook  # type: ignore[untyped-decorator]
def filter_query(context: Any, query: dict[str, Any] | None) -> bool:
    """Whether the query fits into an address."""
    del context
    return len(urlencode(query or {}, doseq=True)) < ADDRESS_MAX
