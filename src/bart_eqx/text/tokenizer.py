"""`Tokenizer`: text to token ids and back, over the `tokenizers` library, without JAX."""

import copy
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from beartype import beartype
from jaxtyping import Bool

from ..checkpoint.atomic_folder import hidden_folder
from ..checkpoint.errors import TargetError
from ..checkpoint.find import find_tokenizer
from ..checkpoint.tokenizer import TOKENIZER_FILES, tokenizer_files
from ..checkpoint.write import write_bytes
from ..lazy_beartype import CONF
from .checks import check_texts, subject
from .tokenizer_files import read_tokenizer
from .tokens import Frame, Part, TokenBatch, Tokens, pad
from .truncation import Truncation, kept_tokens


class Tokenizer:
    """Text to the token ids of a BART, and back.

    ```python
    tokenizer = Tokenizer.from_pretrained("bart-base")
    batch = tokenizer(["UN Chief Says There Is No <mask> in Syria", "another"], max_length=1024)
    output = model(batch.input_ids, batch.attention_mask)
    tokenizer.decode(output.logits.argmax(-1))
    ```

    Ids are those of transformers' tokenizers, with one difference: a text that contains `</s>` or `<mask>` contains
    these characters, and not those tokens, unless `split_special_tokens=False`.
    """

    backend: tokenizers.Tokenizer
    """The tokenizer of the library. Do not turn on its truncation or padding."""
    pad_token: str
    mask_token: str | None
    prefix: str
    """What generation tasks put in front of a source (`config.prefix`; `" "` for models that were trained on
    CNN/DailyMail). A call of the tokenizer does not add it."""
    model_vocab_size: int | None

    @beartype(conf=CONF)
    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        pad_token: str = "<pad>",
        mask_token: str | None = None,
        prefix: str = "",
        model_vocab_size: int | None = None,
        files: Mapping[str, bytes] | None = None,
    ):
        """
        Args:
            backend: A tokenizer of the `tokenizers` library.
            pad_token: The token for padding.
            mask_token: The token that an infilling model replaces, where there is one.
            prefix: What generation tasks put in front of a source.
            model_vocab_size: The rows of the model's embedding. A text with a token that has no row is refused.
            files: The tokenizer's files, which `save_pretrained` writes; by default made from `backend`.

        Raises:
            ValueError: if the tokenizer lacks one of these tokens.
        """
        self.backend = backend
        self.pad_token = pad_token
        self.mask_token = mask_token
        self.prefix = prefix
        self.model_vocab_size = model_vocab_size
        self._files = files
        for name, token in (("pad_token", pad_token), ("mask_token", mask_token)):
            if token is not None and backend.token_to_id(token) is None:
                raise ValueError(f"`{name}` must be a token of the tokenizer. Got {token!r}.")

    @classmethod
    @beartype(conf=CONF)
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, subfolder: str | None = None
    ) -> "Tokenizer":
        """Read the tokenizer of a checkpoint: a tokenizer.json, BART's vocab.json and merges.txt, or BERT's vocab.txt
        (which bart-base-chinese has).

        Args:
            source: A folder, the id or URL of a repository on the Hugging Face Hub, a short name such as
                `"bart-base"`, `"demo"` or `"demo-text"`. No weights are downloaded.
            revision: A branch, tag or commit on the Hub.
            subfolder: A folder inside the source.

        Raises:
            CheckpointError: one of its kinds (`bart_eqx.checkpoint.errors`), if there is no such source, or it has no
                tokenizer, or its files are damaged, contradict each other, or are of a kind that is not read here.
        """
        folder = find_tokenizer(source, revision=revision, subfolder=subfolder)
        found = read_tokenizer(folder)
        return cls(
            found.backend,
            pad_token=found.special_tokens.get("pad_token", "<pad>"),
            mask_token=found.special_tokens.get("mask_token"),
            prefix=found.prefix,
            model_vocab_size=found.model_vocab_size,
            files=tokenizer_files(folder),
        )

    @property
    def pad_token_id(self) -> int:
        return _id(self.backend, self.pad_token)

    @property
    def mask_token_id(self) -> int | None:
        return None if self.mask_token is None else _id(self.backend, self.mask_token)

    def word_starts(self) -> Bool[np.ndarray, " vocab"]:
        """For each token id, whether a word starts with it: for `bart_eqx.training.Denoiser`.

        True for a token with a space in front (byte-level BPE, SentencePiece), or without `##` (WordPiece); and for
        special tokens, and for ids without a token. A text's first word, which has no space in front, does not count as
        a start, as in fairseq.

        Raises:
            ValueError: if the tokenizer joins words in another way.
        """
        decoder = json.loads(self.backend.to_str())["decoder"] or {}
        match decoder:
            case {"type": "ByteLevel"}:
                is_start = lambda token: token.startswith("Ġ")
            case {"type": "Metaspace", "replacement": space}:
                is_start = lambda token: token.startswith(space)
            case {"type": "WordPiece", "prefix": prefix}:
                is_start = lambda token: not token.startswith(prefix)
            case _:
                raise ValueError(
                    "The starts of words are known for decoders of type ByteLevel, Metaspace and WordPiece. This "
                    f"tokenizer's is {decoder.get('type')}: make the table [vocab] of booleans yourself."
                )
        special = self.backend.get_added_tokens_decoder()
        starts = np.ones(self.model_vocab_size or self.backend.get_vocab_size(), bool)
        for token, index in self.backend.get_vocab().items():
            if index < len(starts):
                starts[index] = index in special or is_start(token)
        return starts

    def for_vocabulary(self, size: int) -> "Tokenizer":
        """This tokenizer for a model whose embedding has `size` rows: a token without a row is refused."""
        fitted = copy.copy(self)
        fitted.model_vocab_size = size
        return fitted

    @beartype(conf=CONF)
    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: Truncation | bool = "longest_first",
        prefix: str = "",
        split_special_tokens: bool = True,
        pad_to_multiple_of: int = 1,
    ) -> TokenBatch:
        """Tokenise a text, or a list of texts, or pairs of them.

        Args:
            texts: A list gives arrays with a batch axis, a string arrays without.
            pairs: The second text of each pair: a list as long as `texts`, or a string if `texts` is one.
            max_length: The maximum number of tokens in a text, or pair, special tokens included. `None`: no limit.
            truncation: Where tokens beyond `max_length` are dropped: at the end of the first text, of the second, or of
                whichever is longer, token by token (transformers' rule). `False`: a text that is too long is an error.
            prefix: Put in front of every text, but not of its pair. Offsets are those of the text without it.
            split_special_tokens: Tokenise `</s>`, `<mask>`, ... in a text as ordinary characters; with `False` they are
                those tokens.
            pad_to_multiple_of: Round the length of the batch up.

        Raises:
            ValueError: if a text has a lone surrogate, is longer than 8,388,608 characters, needs a token for which the
                model has no row, or does not fit; or if `texts` and `pairs` differ in length.
        """
        single = isinstance(texts, str)
        if pairs is not None and isinstance(pairs, str) != single:
            raise ValueError("`texts` and `pairs` must be two strings, or two lists of strings.")
        rows = self.tokenize(
            [texts] if isinstance(texts, str) else texts,
            [pairs] if isinstance(pairs, str) else pairs,
            max_length=max_length,
            truncation=truncation,
            prefix=prefix,
            split_special_tokens=split_special_tokens,
        )
        if pad_to_multiple_of < 1:
            raise ValueError(f"`pad_to_multiple_of` must be at least 1. Got {pad_to_multiple_of}.")
        longest = max(map(len, rows), default=0)
        ids, mask = pad(rows, self.pad_token_id, -(-longest // pad_to_multiple_of) * pad_to_multiple_of)
        return TokenBatch(ids[0], mask[0], (rows[0],)) if single else TokenBatch(ids, mask, tuple(rows))

    @beartype(conf=CONF)
    def tokenize(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        truncation: Truncation | bool = "longest_first",
        prefix: str = "",
        split_special_tokens: bool = True,
    ) -> list[Tokens]:
        """As a call with lists, without padding."""
        if isinstance(texts, str) or isinstance(pairs, str):
            raise TypeError("`tokenize` takes lists of strings. For a string, call the tokenizer.")
        if pairs is not None and len(texts) != len(pairs):
            raise ValueError(f"`texts` and `pairs` must be equally many. Got {len(texts)} and {len(pairs)}.")
        sources = [texts] if pairs is None else [texts, pairs]
        for name, source in zip(("texts", "pairs"), sources, strict=False):
            check_texts(name, source)
        backend = self.backend_of_characters if split_special_tokens else self.backend
        sides = [backend.encode_batch([prefix + text for text in texts], add_special_tokens=False)]
        if pairs is not None:
            sides.append(backend.encode_batch(list(pairs), add_special_tokens=False))
        frame = self._frames[len(sides) - 1]
        room = None if max_length is None else max_length - frame.num_tokens
        if room is not None and room < 0:
            raise ValueError(f"`max_length` must be at least {frame.num_tokens}, the special tokens. Got {max_length}.")
        rows = []
        for encodings, *together in zip(zip(*sides, strict=True), *sources, strict=True):
            lengths = [len(encoding) for encoding in encodings]
            kept = lengths if room is None else kept_tokens(lengths, room, truncation, together)
            shifts = (len(prefix), 0)
            parts = tuple(Part(e, 0, stop, shift) for e, stop, shift in zip(encodings, kept, shifts, strict=False))
            row = Tokens(frame, parts, sum(lengths) - sum(kept))
            self._check_vocabulary(row, together)
            rows.append(row)
        return rows

    @functools.cached_property
    def backend_of_characters(self) -> tokenizers.Tokenizer:
        """`backend`, for which the texts of special tokens are text. An object of the library does one or the other."""
        plain = tokenizers.Tokenizer.from_str(self.backend.to_str())
        plain.encode_special_tokens = True
        return plain

    @functools.cached_property
    def _frames(self) -> tuple[Frame, Frame]:
        """The special tokens around one text, and around two; found with a text that is one token."""
        probe = self.backend.encode(self.pad_token, add_special_tokens=False)
        frames = []
        for count in (1, 2):
            encoding = self.backend.encode(self.pad_token, None if count == 1 else self.pad_token)
            runs: list[tuple[int, ...]] = [()]
            for token, sequence in zip(encoding.ids, encoding.sequence_ids, strict=True):
                if sequence is None:
                    runs[-1] += (token,)
                else:
                    runs.append(())
            if len(probe.ids) != 1 or len(runs) != count + 1:
                raise ValueError(f"The tokenizer must take {self.pad_token!r} for one token. Got {encoding.tokens}.")
            frames.append(Frame(tuple(runs)))
        return frames[0], frames[1]

    def _check_vocabulary(self, row: Tokens, texts: Sequence[str]) -> None:
        size = self.model_vocab_size
        if size is not None and (beyond := sorted({token for token in row.input_ids if token >= size})):
            named = ", ".join(f"{self.backend.id_to_token(token)!r} ({token})" for token in beyond[:5])
            raise ValueError(
                f"{subject(*texts)} needs {named}, and the model's vocabulary has the ids 0 to {size - 1}. Remove the "
                "token from the text, or give the model rows for it."
            )

    @beartype(conf=CONF)
    def decode(self, token_ids: Any, *, skip_special_tokens: bool = True) -> str | list[str]:
        """Text from token ids, exactly as the tokens have it: no spaces are cleaned up.

        Args:
            token_ids: A list or an array `[tokens]`, which gives a string; or rows of them, which give a list.
            skip_special_tokens: Leave special tokens, padding among them, out.

        Raises:
            ValueError: if an id has no token, or there are more than two axes.
        """
        if isinstance(token_ids, Sequence):
            nested = bool(token_ids) and not isinstance(token_ids[0], (int, np.integer))
        else:  # an array, of NumPy or JAX
            token_ids = np.asarray(token_ids)
            nested = token_ids.ndim > 1
        rows = [np.asarray(row).tolist() for row in (token_ids if nested else [token_ids])]
        for row in rows:
            if bad := [token for token in row if isinstance(token, list) or token not in self._ids]:
                raise ValueError(
                    "`token_ids` must be [tokens] or [rows, tokens], of ids that the tokenizer has, 0 to "
                    f"{max(self._ids)}. Got {bad[0]!r:.80}."
                )
        texts = self.backend.decode_batch(rows, skip_special_tokens=skip_special_tokens)
        return texts if nested else texts[0]

    @functools.cached_property
    def _ids(self) -> frozenset[int]:
        return frozenset(self.backend.get_vocab().values())

    @beartype(conf=CONF)
    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer's files: unchanged where they came from a checkpoint, else a tokenizer.json.

        `prefix` is written into tokenizer_config.json. Files of another tokenizer in the folder are removed, for they
        might be read instead.

        Args:
            folder: Created if it does not exist. Use the folder of `bart_eqx.save_pretrained(model, folder)`.

        Raises:
            TargetError: if it cannot be written.
        """
        folder = Path(folder).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with hidden_folder(folder) as partial:
                files = self._files_to_save()
                for name, content in files.items():
                    write_bytes(partial / name, content)
                for name in files:
                    os.replace(partial / name, folder / name)
                for name in TOKENIZER_FILES:
                    if name not in files:
                        (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise TargetError(f"{folder} cannot be written ({error.strerror}): choose another folder.") from None

    def _files_to_save(self) -> dict[str, bytes]:
        if self._files is None:
            named = dict(pad_token=self.pad_token, mask_token=self.mask_token)
            config: dict[str, Any] = {name: token for name, token in named.items() if token is not None}
            config["tokenizer_class"] = "PreTrainedTokenizerFast"
            files = {"tokenizer.json": self.backend.to_str(pretty=True).encode()}
        else:
            files = dict(self._files)
            config = json.loads(files.get("tokenizer_config.json", b"{}"))
        if self._files is None or config.get("prefix", "") != self.prefix:
            config["prefix"] = self.prefix
            files["tokenizer_config.json"] = (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
        return files

    def __repr__(self) -> str:
        return f"Tokenizer({self.backend.get_vocab_size()} tokens, prefix={self.prefix!r})"


def _id(backend: tokenizers.Tokenizer, token: str) -> int:
    found = backend.token_to_id(token)
    assert found is not None
    return found
