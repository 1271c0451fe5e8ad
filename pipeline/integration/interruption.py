"""INT, TERM and HUP, let in only where whatever was begun is sure to be cleaned up."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Within `with Interruption()`, signals are kept back; within `allowed()`, the first one reaches its former handler.

    Only the first: a second Ctrl-C must not cut the cleaning up short that the first one began.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._arrived: int | None = None
        self._told = False
        self._open = False

    def __enter__(self) -> Interruption:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                with contextlib.suppress(ValueError):  # only the main thread may handle signals; elsewhere none arrive
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._deliver()

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Where an exception may come out of any line."""
        self._open = True
        try:
            self._deliver()
            yield
        finally:
            self._open = False
            self._deliver()

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._arrived = self._arrived or number
        if self._open:
            self._deliver()

    def _deliver(self) -> None:
        if self._arrived is None or self._told:
            return
        self._told, self._open = True, False
        handler = self._previous.get(self._arrived)
        if callable(handler):
            handler(self._arrived, None)
        raise SystemExit(128 + self._arrived)  # the default would have ended the process, with just this exit code
