"""SIGTERM and SIGINT, so that a run ends between two writes and can be continued."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Stop:
    """A block that SIGTERM ends with `SystemExit(143)`, and SIGINT with `KeyboardInterrupt`, at once.

    An exception that a signal raises inside a callback of JAX is lost: `check`, before each part, raises it again. A
    second signal ends the process, which loses no more than the part that is computed.
    """

    _SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in self._SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell does for what it runs in the background
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise what a signal that was received asks for."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        self.check()
