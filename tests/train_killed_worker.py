"""Run by `test_train_command.py`: `bart-eqx train` in a process that kills itself.

`train_killed_worker.py FOLDER KILL ARGUMENT...`, with the run's folder and `KILL` as in `train_worker.py`.
"""

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bart_eqx.command.app import main
from bart_eqx.command.train_progress import TrainProgress
from train_worker import die, die_in_a_save


class Mortal(TrainProgress):
    """Dies at the record of a step."""

    def on_record(self, record: Mapping[str, Any]) -> None:
        if str(record["step"]) == kill:
            die()
        super().on_record(record)


if __name__ == "__main__":
    _, folder, kill, *arguments = sys.argv
    if kill == "save":
        threading.Thread(target=die_in_a_save, args=(Path(folder),), daemon=True).start()
    elif kill:
        from bart_eqx.command import train_run

        train_run.TrainProgress = Mortal
    sys.exit(main(arguments))
