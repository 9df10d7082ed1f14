"""Make `tests/references/tokenizer.npz` anew: what transformers 4.57's pure-Python BartTokenizer makes of 500 texts.

.venv-oracle/bin/python scripts/make_tokenizer_references.py
"""

import sys
from pathlib import Path

import numpy as np
import transformers


ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from tokenizer_cases import cases, python_encoding  # noqa: E402


FOLDER = ROOT / "tests" / "data" / "bart-tokenizer"
COUNT = 500


def main() -> None:
    reference = transformers.BartTokenizer(str(FOLDER / "vocab.json"), str(FOLDER / "merges.txt"))
    encodings = [python_encoding(reference, case) for case in cases(COUNT)]
    np.savez_compressed(
        ROOT / "tests" / "references" / "tokenizer.npz",
        lengths=np.array([len(ids) for ids, _, _ in encodings], np.int32),
        ids=np.concatenate([np.array(ids, np.uint16) for ids, _, _ in encodings]),
        offsets=np.concatenate([np.array(offsets, np.uint16) for _, offsets, _ in encodings]),
        truncated=np.array([truncated for _, _, truncated in encodings], np.int32),
        version=transformers.__version__,
    )


main()
