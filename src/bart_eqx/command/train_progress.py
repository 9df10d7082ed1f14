"""What a training run tells on standard error: a bar on a terminal, and elsewhere a line from time to time."""

import collections
import sys
import time
from collections.abc import Mapping
from typing import Any


_RECENT = 50  # steps of which loss and speed are the means
_SECONDS = 30  # between two lines


class TrainProgress:
    """Takes the records of `train`: loss, speed, time left, and each evaluation. Use it in a `with` block."""

    def __init__(self, total_steps: int, unit: str):
        """
        Args:
            total_steps: Of the run.
            unit: What the loss is the mean of: `"tokens"`, `"texts"`.
        """
        self._total, self._unit = total_steps, unit
        self._recent: collections.deque[tuple[float, float, float]] = collections.deque(maxlen=_RECENT)
        self._bar: Any = None
        self._said = -float("inf")
        self._started = False

    def __enter__(self) -> "TrainProgress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_record(self, record: Mapping[str, Any]) -> None:
        """Of a step, or of an evaluation."""
        if "loss" not in record:
            scores = ", ".join(f"{n} {v:.4f}" for n, v in record.items() if n not in ("step", "best"))
            self._say(f"step {record['step']}: {scores}{', the best so far' if record['best'] else ''}")
            return
        if self._started:
            self._recent.append((record["loss"] * record["tokens"], record["tokens"], record["seconds"]))
        else:  # the first step was compiled, and says nothing of the speed
            self._started = True
            self._show(record["step"], f"loss {record['loss']:.4f}", "")
            return
        losses, counts, seconds = map(sum, zip(*self._recent, strict=True))
        left = round((self._total - record["step"]) * seconds / len(self._recent))
        state = f"loss {losses / (counts or 1):.4f}, {counts / seconds:,.0f} {self._unit}/s"
        self._show(record["step"], state, f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")

    def _show(self, step: int, state: str, left: str) -> None:
        if sys.stderr.isatty():
            if self._bar is None:
                from huggingface_hub.utils import tqdm  # its import takes half a second

                self._bar = tqdm(desc="training", total=self._total, initial=step - 1, unit="step")
            self._bar.set_postfix_str(state, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._said > _SECONDS:
            self._say(f"step {step} of {self._total}: {state}{left}")

    def _say(self, line: str) -> None:
        self._said = time.monotonic()
        if self._bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)
