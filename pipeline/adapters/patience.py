"""How long the outside world is given to recover, and how often it is asked meanwhile."""

from __future__ import annotations

import re
import time

import msgspec

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses after which the same request may well succeed


class Patience(msgspec.Struct, frozen=True):
    """Seconds: `total` for all of it, `first` before the second attempt, `longest` before any later one."""

    total: float
    first: float
    longest: float

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures: twice as long each time, and shorter by chance, so that clients drift apart."""
        import random

        return min(self.first * 2.0 ** min(failures - 1, 30), self.longest) * random.uniform(0.5, 1)  # noqa: S311 - no secret


def retry_after(value: str) -> float:
    """The seconds that a Retry-After header asks for (RFC 9110, section 10.2.3: seconds, or a date); 0 where it says nothing sensible."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d*)?", value):  # a fraction is not allowed, and sent all the same
        return float(value)
    from email.utils import parsedate_to_datetime

    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0
