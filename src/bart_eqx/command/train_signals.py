"""Ctrl-C and SIGTERM while a model is trained."""

import contextlib
import os
import signal
from types import FrameType
from typing import Any, Self


_NOTED = b"interrupted: saving after this step. Once more ends at once, and loses the steps since the last save.\n"


class Interrupt:
    """A block in which SIGINT and SIGTERM are noted, for `train(interrupted=...)`. A second one ends the process.

    An exception could come out of a callback of JAX, or in the middle of a save. Only for the main thread.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        return self.received is not None

    def __enter__(self) -> Self:
        for number in self._SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell does for what it runs in the background
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)
        self.received = number
        with contextlib.suppress(OSError):  # stderr is closed
            os.write(2, _NOTED)
