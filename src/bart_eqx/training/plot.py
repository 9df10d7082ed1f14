"""The measurements of a run as curves."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .extras import library


_POINTS = 200  # of the curve of steps: each is a mean


def plot_metrics(metrics: str | Path, image: str | Path) -> None:
    """Draw the loss and the scores of a run over its steps, as PNG. The image is replaced at once.

    The curve of the training loss has the means of up to 200 stretches of equally many steps. A score that is called
    `validation_loss` is drawn beside it, the others below.

    Args:
        metrics: The metrics.jsonl of `train`.
        image: The file that is written.

    Raises:
        ImportError: if the extra `train` is not installed.
        OSError: if a file cannot be read or written.
        ValueError: if there are no records of steps.
    """
    figure_module = library("matplotlib.figure")  # without pyplot: no window, and no state
    records: list[dict[str, Any]] = [json.loads(line) for line in Path(metrics).read_text().splitlines()]
    steps = [record for record in records if "loss" in record]
    if not steps:
        raise ValueError(f"{metrics} has no records of steps.")
    evaluations = [record for record in records if "loss" not in record]
    scores = [name for name in (evaluations[-1] if evaluations else {}) if name not in ("step", "best")]
    others = [name for name in scores if name != "validation_loss"]
    panels = 2 if others else 1
    figure = figure_module.Figure(figsize=(7, 3.5 * panels), layout="constrained")
    axes = figure.subplots(panels, sharex=True, squeeze=False)[:, 0]
    stretches = np.array_split([(record["step"], record["loss"]) for record in steps], min(len(steps), _POINTS))
    axes[0].plot(*np.transpose([stretch.mean(axis=0) for stretch in stretches]), label="training")
    for name in scores:
        values = [(record["step"], record[name]) for record in evaluations]
        axes[1 if name in others else 0].plot(*np.transpose(values), marker=".", label=name.replace("_", " "))
    best = [record["step"] for record in evaluations if record["best"]]
    for own, what in zip(axes, ("loss", "score"), strict=False):
        if best:
            own.axvline(best[-1], color="gray", linestyle=":", label="saved model")
        own.set_ylabel(what)
        own.grid(alpha=0.3)
        own.legend()
    axes[-1].set_xlabel("step")
    image = Path(image)
    partial = image.with_name(f".{image.name}.partial")
    figure.savefig(partial, format="png", dpi=120)
    os.replace(partial, image)
