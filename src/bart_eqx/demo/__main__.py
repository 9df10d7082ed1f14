"""`python -m bart_eqx.demo [NUMBER ...]`: convert the shipped Flax checkpoint, spell numbers with it, reload it."""

import argparse
import sys
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from .. import from_pretrained, generate
from ..checkpoint.pytree import to_tensors
from ..convert import convert


LIMIT = 1_000_000


def spell(folder: Path, numbers: list[str]) -> list[str]:
    """Each number in words, by the model in `folder`: tokenised, generated with the cache, detokenised."""
    model = from_pretrained(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_id=model.config.pad_token_id, pad_token="<pad>")
    encodings = tokenizer.encode_batch(numbers)
    result = generate(
        model,
        np.array([encoding.ids for encoding in encodings]),
        np.array([encoding.attention_mask for encoding in encodings]),
    )
    return tokenizer.decode_batch(np.asarray(result.sequences).tolist())


def number(text: str) -> str:
    digits = text.replace(",", "")
    if not (digits.isascii() and digits.isdigit() and int(digits) < LIMIT):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 0 to {LIMIT - 1:,}")
    return str(int(digits))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bart_eqx.demo", description=__doc__)
    parser.add_argument("numbers", nargs="*", type=number, metavar="NUMBER", help=f"from 0 to {LIMIT - 1:,}")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-eqx"), metavar="FOLDER")
    options = parser.parse_args(arguments)
    numbers = options.numbers or [
        "0",
        "7",
        "15",
        "40",
        "86",
        "101",
        "999",
        "1066",
        "40217",
        "100000",
        "734512",
        "999999",
    ]

    print("Converting a Hugging Face Flax checkpoint:")
    done = convert("demo", options.output, overwrite=True)
    print(done)

    print("\nWriting with it, token by token, from the cache:")
    for digits, words in zip(numbers, spell(options.output, numbers), strict=True):
        print(f"{digits:>7}  {words}")

    original, reloaded = (to_tensors(from_pretrained(source)) for source in ("demo", options.output))
    equal = sum(array.tobytes() == reloaded[name].tobytes() for name, array in original.items())
    print(f"\nReloaded from {options.output}: {equal} of {len(original)} tensors equal, bit for bit.")
    return 0 if equal == len(original) == len(reloaded) else 1


if __name__ == "__main__":
    sys.exit(main())
