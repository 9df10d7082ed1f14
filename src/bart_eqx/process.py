"""A command as a process: Ctrl-C, a closed pipe and a full disk end it with one line and a status, not a traceback."""

import contextlib
import dataclasses
import importlib
import io
import os
import signal
import sys
from typing import Any, NoReturn


INTERRUPTED, CLOSED_PIPE = 130, 141  # as shells report a process that SIGINT or SIGPIPE ended


def run(module: str) -> NoReturn:
    """Import a command, run it, and exit with its status: 130 after Ctrl-C, 141 if the reader of its output has left.

    Until the command calls `raise_interrupts`, Ctrl-C ends the process at once. An exception could come out of a
    callback of the import system or of JAX's garbage collection, which prints it and goes on (measured: in 3 of 24
    verifications the interrupt was lost).

    Args:
        module: The command's module. Its `main` returns the exit status.
    """
    # A shell has its background processes ignore SIGINT.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _Exit("interrupted: nothing was written."))
    try:
        try:
            status = importlib.import_module(module).main()
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # otherwise at exit, where an error cannot be caught
    except KeyboardInterrupt:
        print("interrupted.", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:
        status = CLOSED_PIPE
        # What is still in the buffer is flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)


def exit_on_interrupt(message: str) -> None:
    """From here on Ctrl-C in a process of `run` ends it with this line: for a command whose output is never torn."""
    if isinstance(signal.getsignal(signal.SIGINT), _Exit):
        signal.signal(signal.SIGINT, _Exit(message))


def raise_interrupts() -> None:
    """From here on the command writes: Ctrl-C in a process of `run` raises KeyboardInterrupt, as it does by default."""
    if isinstance(signal.getsignal(signal.SIGINT), _Exit):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def escape_unencodable_output() -> None:
    """From here on, characters that the encoding of stdout lacks are escaped."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@dataclasses.dataclass(frozen=True)
class _Exit:
    message: str

    def __call__(self, *_: Any) -> None:
        with contextlib.suppress(OSError):  # stderr is closed
            os.write(2, f"{self.message}\n".encode())
        os._exit(INTERRUPTED)
