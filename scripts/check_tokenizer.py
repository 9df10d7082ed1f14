"""Check that transformers 5's BartTokenizer gives the ids, masks and offsets of `bart_eqx.text.Tokenizer`.

    SOME_ENVIRONMENT/bin/python scripts/check_tokenizer.py .venv/bin/python

Runs in an environment with transformers 5. The argument is an interpreter that has bart_eqx. 5,000 texts and pairs,
with a tokenizer from vocab.json and merges.txt, and with one from a folder that `Tokenizer.save_pretrained` wrote.

Two differences are known. From vocab.json and merges.txt alone, transformers 5.24 forgets that `<mask>` takes the space
before it, so the script states that. And of a pair that is cut to an odd number of tokens, transformers 5 may drop one
from the other text than transformers 4's Python, whose rule is ours; these are counted apart.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]
from tokenizer_cases import cases  # noqa: E402


FOLDER = ROOT / "tests" / "data" / "bart-tokenizer"
COUNT = 5000


def ours(saved: str) -> None:
    """In the other interpreter: print what bart_eqx makes of the cases, and save its tokenizer."""
    from bart_eqx.text import Tokenizer

    tokenizer = Tokenizer.from_pretrained(FOLDER)
    rows = []
    for case in cases(COUNT):
        pairs = None if case.pair is None else [case.pair]
        split = case.split_special_tokens
        (row,) = tokenizer.tokenize([case.text], pairs, max_length=case.max_length, split_special_tokens=split)
        rows.append(dict(ids=row.input_ids, offsets=row.offsets.tolist(), truncated=row.truncated))
    Tokenizer(tokenizer.backend, mask_token="<mask>").save_pretrained(saved)
    json.dump(rows, sys.stdout)


def compare(tokenizer: Any, rows: list[dict[str, Any]]) -> None:
    differ, rounded = [], 0
    for case, row in zip(cases(COUNT), rows, strict=True):
        options: dict[str, Any] = dict(split_special_tokens=case.split_special_tokens, return_offsets_mapping=True)
        if case.max_length is not None:
            options |= dict(truncation=True, max_length=case.max_length)
        # In lists: a lone empty string would not count as the second of a pair.
        wanted = tokenizer([case.text], None if case.pair is None else [case.pair], **options)
        (ids,), (mask,), (offsets,) = wanted["input_ids"], wanted["attention_mask"], wanted["offset_mapping"]
        if ids == row["ids"] and list(map(list, offsets)) == row["offsets"] and mask == [1] * len(ids):
            continue
        if case.pair is not None and row["truncated"] and len(ids) == len(row["ids"]):
            rounded += 1
        else:
            differ.append(case)
    print(f"{type(tokenizer).__name__}: {len(rows) - len(differ) - rounded} equal, {rounded} pairs cut by another rule")
    assert not differ, differ[:3]


def main() -> None:
    if sys.argv[1] == "--ours":
        return ours(sys.argv[2])
    import transformers

    with tempfile.TemporaryDirectory() as saved:
        command = [sys.argv[1], __file__, "--ours", saved]
        rows = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        print("transformers", transformers.__version__)
        mask = transformers.AddedToken("<mask>", lstrip=True)
        compare(transformers.BartTokenizer.from_pretrained(FOLDER, mask_token=mask), rows)
        compare(transformers.AutoTokenizer.from_pretrained(saved), rows)


main()
