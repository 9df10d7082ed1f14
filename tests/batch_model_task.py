"""A task with a model for the tests of `bart_eqx.batch`: the demo spells numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from bart_eqx.batch import Record, RecordFormat, Run, checkpoint_identity, versions


FORMAT = RecordFormat("text")


def identity() -> dict[str, Any]:
    return dict(model=checkpoint_identity("demo"), task="summarize", options={}, versions=versions())


def load() -> Run:
    from bart_eqx.text import Summarizer

    speller = Summarizer.from_pretrained("demo")

    def run(records: Sequence[Record]) -> list[Mapping[str, Any]]:
        results = speller([record.inputs["text"] for record in records])
        return [{"summary_text": result.summary_text} for result in results]

    return run
