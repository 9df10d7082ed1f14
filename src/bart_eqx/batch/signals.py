"""SIGTERM and SIGINT as exceptions, so that a run ends cleanly and can be continued."""

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Stop:
    """A block that SIGTERM ends with `SystemExit(143)`, and SIGINT with `KeyboardInterrupt`, at once.

    An exception that is raised inside a callback of JAX is lost: call `check` before each part, which raises it again.
    A second signal ends the process, and only the part that is being computed is lost. For the main thread only.
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
        """Raise the exception of a signal that was received."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        self.check()
