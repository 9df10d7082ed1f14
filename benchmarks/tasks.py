"""Records per second from texts to texts, beside transformers and CTranslate2, each in the batches that suit it.

    .venv/bin/python benchmarks/tasks.py --tokenizer FOLDER --peer hf_torch=OTHER/bin/python \\
        --peer ctranslate2=OTHER/bin/python [--only greedy] [--records 2000] [--output benchmarks/results/NAME]

FOLDER has BART's vocab.json and merges.txt. The records have as many words, each of which is one token, as the
descriptions of Debian's packages have tokens (a median of 87, one in ten above 179), times `--scale`. Random weights
write the same number of tokens for each, so that the libraries compute the same.

Each peer has a process of its own, one after the other: with sorted batches of 8 for transformers, which computes every
eighth of them (`--part`), and batches of 4,096 tokens for the others. Times include tokenising and decoding. That of
bart_eqx includes compiling, which is also given alone; the first record is timed from the start of the process, with an
empty cache of compiled programs and, in another process, with what the first has left there. Searches that are already
in NAME.json and are not run now stay there.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
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
            record["searches"][name] = rows = []
            for peer, python in peers.items():
                for module, variant in VARIANTS[peer]:
                    own = part if peer == "hf_torch" else range(len(texts))
                    file = home / "texts.json"
                    file.write_text(json.dumps([texts[index] for index in own]))
                    cache = home / f"programs {name} {variant}"
                    row = measure(python, module, variant, folder, dict(workload, texts=str(file)), cache)
                    row["rate"] = len(own) / row["seconds"]
                    row["rate_compiled"] = len(own) / (row["seconds"] - row["compiling"])
                    written = dict(zip(own, row.pop("written"), strict=True))
                    rows.append(row | dict(records=len(own), written_=written))
                    print(f"{name}, {row['peer']}: {row['rate']:.1f} records per second", file=sys.stderr, flush=True)
            compare(rows)
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


def measure(
    python: str, module: str, variant: str, folder: Path, workload: dict[str, Any], cache: Path
) -> dict[str, Any]:
    """The times of one peer, and what it writes."""
    kept = dict(
        JAX_COMPILATION_CACHE_DIR=str(cache),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )

    def start() -> tuple[Worker, float, dict[str, Any]]:
        begin = time.perf_counter()
        worker = Worker(python, module, variant, folder, workload, os.environ | kept, "task_worker.py")
        answer = worker.answer()
        if answer is None:
            raise SystemExit(f"{worker.name} has failed.")
        return worker, time.perf_counter() - begin, answer

    if module == "ctranslate2_peer":  # what it converts at its first start is not to be timed
        start()[0].stop()
    worker, first, started = start()
    answer = worker.run()
    worker.stop()
    if answer is None:
        raise SystemExit(f"{worker.name} has failed.")
    row = dict(peer=worker.name, versions=started["versions"], first=first, **answer)
    if module == "ours":
        again, row["first_again"], _ = start()
        again.stop()
    return row


def compare(rows: list[dict[str, Any]]) -> None:
    """Say of each row how fast it is beside the first, and how many of its texts are the first's."""
    ours = rows[0]
    for row in rows:
        written = row["written_"]
        row["ratio"] = ours["rate_compiled"] / row["rate_compiled"]
        row["same_texts"] = sum(ours["written_"][index] == text for index, text in written.items()) / len(written)
    for row in rows:
        del row["written_"]


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
            "| | records per second | with compiling | bart_eqx's are times these | first record, s "
            "| from a warm cache, s | peak MiB | same texts |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            again = f"{row['first_again']:.1f}" if "first_again" in row else ""
            lines.append(
                f"| {row['peer']} | {row['rate_compiled']:.2f} | {row['rate']:.2f} | {row['ratio']:.2f} | "
                f"{row['first']:.1f} | {again} | {row['peak_mib']:.0f} | {row['same_texts']:.0%} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
