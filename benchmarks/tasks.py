"""Records per second from texts to texts, beside transformers and CTranslate2, each in the batches that suit it.

    .venv/bin/python benchmarks/tasks.py --tokenizer FOLDER --peer hf_torch=OTHER/bin/python \\
        --peer ctranslate2=OTHER/bin/python [--only greedy] [--records 2000] [--rounds 2] [--output FILE]

FOLDER has BART's vocab.json and merges.txt. The records have as many words, each of which is one token, as the
descriptions of Debian's packages have tokens (a median of 87, one in ten above 179), times `--scale`. Random weights
write the same number of tokens for each, so that the libraries compute the same.

Each peer has a process of its own: with sorted batches of 8 for transformers, which computes every eighth of them
(`--part`), and batches of 4,096 tokens for the others. All of them are loaded, and write all records in turn, A B C A B
C; rates and ratios are medians over rounds. Times include tokenising and decoding. bart_eqx compiles in its first
round, whose rate is given apart. The first record is timed from the start of the process, with an empty cache of
compiled programs and, in another process, with what the first has left there. Searches that are already in FILE.json
and are not run now stay there.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import checkpoint
from run import HERE, Worker, processor

from bart_eqx.text import Tokenizer
from bart_eqx.text.batches import plan_batches


SEARCHES = {"greedy": 1, "4 beams": 4}
VARIANTS = {
    "bart_eqx": [("ours", "float32"), ("ours", "int8")],
    "ctranslate2": [("ctranslate2_peer", "float32"), ("ctranslate2_peer", "int8")],
    "hf_torch": [("hf_torch", "eager")],
}
BATCH = 8  # of transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with vocab.json and merges.txt")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help=", ".join(VARIANTS))
    parser.add_argument("--only", default="", help="run the searches whose name contains this")
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--scale", type=float, default=0.35, help="of the records' lengths")
    parser.add_argument("--new", type=int, default=8, help="tokens that are written for each record")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--part", type=int, default=8, help="transformers computes one in so many of its batches")
    parser.add_argument("--size", default="bart-base", help="bart-base or tiny")
    parser.add_argument("--checkpoints", type=Path, help="keep random checkpoints here; use those that exist")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "tasks")
    arguments = parser.parse_args()
    peers = {"bart_eqx": sys.executable} | dict(pair.split("=", 1) for pair in arguments.peer)
    if unknown := peers.keys() - VARIANTS.keys():
        parser.error(f"--peer knows {', '.join(VARIANTS)}. Got {', '.join(unknown)}.")
    tokenizer = Tokenizer.from_pretrained(arguments.tokenizer)
    texts = make_texts(tokenizer, arguments.records, arguments.scale)
    lengths = [len(row) for row in tokenizer.tokenize(texts)]
    part = every_batch(lengths, arguments.part)
    record: dict[str, Any] = dict(
        machine=dict(processor=processor(), cores=len(os.sched_getaffinity(0)), python=platform.python_version()),
        size=arguments.size,
        records=len(texts),
        new=arguments.new,
        tokens=dict(zip(("median", "90%", "longest"), np.quantile(lengths, (0.5, 0.9, 1)).tolist(), strict=True)),
        padding=padding(lengths),
        searches={},
    )
    results = arguments.output.with_suffix(".json")
    if results.exists():
        kept = json.loads(results.read_text())
        if kept | dict(searches={}) != record:
            parser.error(f"{results} is of another machine or workload: choose another --output.")
        record["searches"] = kept["searches"]
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        folder = checkpoint(arguments.size, (arguments.checkpoints or home) / arguments.size, flax=False)
        for name, beams in SEARCHES.items():
            if arguments.only not in name:
                continue
            workload = dict(tokenizer=str(arguments.tokenizer.resolve()), beams=beams, new=arguments.new)
            runs = []
            for peer, python in peers.items():
                own = part if peer == "hf_torch" else range(len(texts))
                file = home / f"{peer}.json"
                file.write_text(json.dumps([texts[index] for index in own]))
                for module, variant in VARIANTS[peer]:
                    cache = home / f"programs {name} {variant}"
                    command = (python, module, variant, folder, dict(workload, texts=str(file)))
                    runs.append(Run(command, cache, own))
            record["searches"][name] = measure(runs, arguments.rounds)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(json.dumps(record, indent=1) + "\n")
            arguments.output.with_suffix(".md").write_text(table(record))
    print(table(record))


def make_texts(tokenizer: Tokenizer, count: int, scale: float) -> list[str]:
    """Random words, each of one token."""
    generator = np.random.default_rng(0)
    lengths = np.exp(generator.normal(np.log(87 * scale), 0.58, count)).round().clip(3, 900).astype(int)
    vocabulary = tokenizer.backend.get_vocab()
    words = sorted(name[1:] for name in vocabulary if name[0] == "Ġ" and name[1:].isascii() and name[1:].isalpha())
    return [" " + " ".join(generator.choice(words, length)) for length in lengths]


def every_batch(lengths: list[int], part: int) -> list[int]:
    """The records of one in `part` batches of 8, of all records sorted by length: from the middle of each `part`."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [index for batch in batches[part // 2 :: part] or batches[:1] for index in batch]


def padding(lengths: list[int]) -> float:
    """The part of the encoder's tokens that bart_eqx computes in vain."""
    plan = plan_batches(lengths, batch_tokens=4096, max_width=1024)
    return 1 - sum(lengths) / sum(batch.size * batch.width for batch in plan)


class Run:
    """A peer, its records, and what was measured of it."""

    def __init__(self, command: tuple[str, str, str, Path, dict[str, Any]], cache: Path, own: Sequence[int]):
        """`command` holds the first arguments of `Worker`."""
        self.command = command
        self.kept = dict(
            JAX_COMPILATION_CACHE_DIR=str(cache),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
        )
        self.own = own
        self.has_cache = command[1] == "ours"
        if command[1] == "ctranslate2_peer":  # what it converts at its first start is not to be timed
            self.started()[0].stop()
        self.worker, first, started = self.started()
        self.row: dict[str, Any] = dict(peer=self.worker.name, versions=started["versions"], first=first)
        self.answers: list[dict[str, Any]] = []

    def started(self) -> tuple[Worker, float, dict[str, Any]]:
        begin = time.perf_counter()
        worker = Worker(*self.command, os.environ | self.kept, "task_worker.py")
        answer = worker.answer()
        if answer is None:
            raise SystemExit(f"{worker.name} has failed.")
        return worker, time.perf_counter() - begin, answer

    def write(self) -> None:
        answer = self.worker.run()
        if answer is None:
            raise SystemExit(f"{self.worker.name} has failed.")
        self.answers.append(answer)
        rate = len(self.own) / answer["seconds"]
        print(f"{self.worker.name}: {rate:.1f} records per second", file=sys.stderr, flush=True)

    def finish(self) -> None:
        self.worker.stop()
        if self.has_cache:
            again, self.row["first_again"], _ = self.started()
            again.stop()

    def rates(self) -> list[float]:
        return [len(self.own) / (answer["seconds"] - answer["compiling"]) for answer in self.answers]


def measure(runs: list[Run], rounds: int) -> list[dict[str, Any]]:
    """The rows of the table: each peer beside the first."""
    for _ in range(rounds):
        for run in runs:
            run.write()
    ours = runs[0]
    for run in runs:
        run.finish()
        of_first = run.answers[0]
        same = [ours.answers[0]["written"][i] == text for i, text in zip(run.own, of_first["written"], strict=True)]
        run.row |= dict(
            records=len(run.own),
            rates=run.rates(),
            rate=statistics.median(run.rates()),
            rate_compiling=len(run.own) / of_first["seconds"],
            ratio=statistics.median(a / b for a, b in zip(ours.rates(), run.rates(), strict=True)),
            peak_mib=run.answers[-1]["peak_mib"],
            same_texts=sum(same) / len(same),
        )
    return [run.row for run in runs]


def table(record: dict[str, Any]) -> str:
    machine, tokens = record["machine"], record["tokens"]
    lines = [
        f"{machine['processor']}, {machine['cores']} cores. {record['records']} records with a median of "
        f"{tokens['median']:.0f} tokens, {tokens['90%']:.0f} at 90% and {tokens['longest']:.0f} at most; for each, "
        f"{record['new']} tokens are written at the size of {record['size']}. {record['padding']:.1%} of the encoder's "
        "tokens are padding."
    ]
    for name, rows in record["searches"].items():
        lines += [
            "",
            f"**{name}**",
            "",
            "| | records per second | compiling | bart_eqx's are times these | first record, s "
            "| from a warm cache, s | peak MiB | same texts |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            again = f"{row['first_again']:.1f}" if "first_again" in row else ""
            lines.append(
                f"| {row['peer']} | {row['rate']:.2f} | {row['rate_compiling']:.2f} | {row['ratio']:.2f} | "
                f"{row['first']:.1f} | {again} | {row['peak_mib']:.0f} | {row['same_texts']:.0%} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
