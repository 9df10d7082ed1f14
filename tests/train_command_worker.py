"""Run by `test_train_command.py`: one of two processes that train with `bart-eqx train`, in the folder of its files.

`train_command_worker.py PORT RANK ARGUMENT...`: the command four times. First another run holds the folder, then a
signal reaches process 1 only, and the last time an option differs from the run's.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

from bart_eqx.command.app import main
from bart_eqx.command.train_settings import LOCK
from bart_eqx.command.train_signals import Interrupt
from bart_eqx.locks import Lock
from bart_eqx.text import TextGenerator


class Counted(TextGenerator):
    """Notes how many texts each call generates from."""

    texts: ClassVar[list[int]] = []

    def __call__(self, texts: Any, **options: Any) -> Any:
        self.texts.append(len(texts))
        return super().__call__(texts, **options)


class OnceInterrupted(Interrupt):
    """Gets a signal at the third question."""

    questions = 0

    def __call__(self) -> bool:
        self.questions += 1
        if self.questions == 3:
            signal.raise_signal(signal.SIGINT)
        return super().__call__()


if __name__ == "__main__":
    _, port, rank, *arguments = sys.argv
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in background
    os.environ |= dict(JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}", JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=rank)
    from bart_eqx.command import train_run, train_tasks

    train_tasks.TextGenerator = Counted
    output = Path(arguments[arguments.index("-o") + 1])
    output.mkdir(exist_ok=True)
    lock = Lock(output / LOCK)
    assert rank == "1" or lock.acquire("exclusive")  # as another run does
    assert main(arguments) == 1
    lock.release()

    if rank == "1":
        train_run.Interrupt = OnceInterrupted
    assert main(arguments) == (143 if rank == "0" else 130)
    train_run.Interrupt = Interrupt
    assert main(arguments) == 0
    assert Counted.texts == [3, 3]  # half of the held-out texts, at both evaluations
    assert main([*arguments, "--dropout", "0.2"]) == 1
