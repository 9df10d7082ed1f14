"""Reading a tokenizer's files into an object of the `tokenizers` library: three layouts, none of them trusted.

| files | tokenizer |
|---|---|
| `tokenizer.json` | any that the library describes |
| `vocab.json`, `merges.txt` | BART's and RoBERTa's: byte-level BPE, `<s> A </s>`, `<s> A </s></s> B </s>` |
| `vocab.txt` | BERT's, as bart-base-chinese has it: WordPiece, `[CLS] A [SEP]`, `[CLS] A [SEP] B [SEP]` |

The first that exists is read. `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` add special
tokens and settings.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from ..checkpoint.errors import (
    CheckpointError,
    ConfigurationError,
    DamagedFileError,
    SourceNotFoundError,
    UnsupportedCheckpointError,
)
from ..checkpoint.formats.json import read_json
from ..checkpoint.formats.regular_file import read_bytes


_MAX_BYTES = 10 * 2**20  # BART's largest has 1.4 MB
_BART = dict(
    bos_token="<s>",
    eos_token="</s>",
    sep_token="</s>",
    cls_token="<s>",
    unk_token="<unk>",
    pad_token="<pad>",
    mask_token=AddedToken("<mask>", lstrip=True, special=True),  # takes the space before it, as a word does
)
_BERT = dict(unk_token="[UNK]", sep_token="[SEP]", pad_token="[PAD]", cls_token="[CLS]", mask_token="[MASK]")
_NAMES = tuple(_BART)
_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model")
# Settings of BertTokenizer, and the only values under which it is the one built here.
_BERT_FIXED = {"do_basic_tokenize": True, "never_split": None}


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer of a folder, and settings that belong to it.

    Args:
        backend: The tokenizer, without truncation and padding.
        special_tokens: Their texts, by Hugging Face's names: `pad_token`, `mask_token`, ...
        prefix: What generation tasks put in front of a source.
        model_vocab_size: The `vocab_size` of config.json.
    """

    backend: tokenizers.Tokenizer
    special_tokens: Mapping[str, str]
    prefix: str
    model_vocab_size: int | None


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """Read the tokenizer in a folder.

    Raises:
        SourceNotFoundError: if the folder has none.
        UnsupportedCheckpointError: if it is of a kind that is not read here.
        CheckpointError: another of its kinds, if a file is damaged or contradicts another.
    """
    config = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").exists():
        backend, defaults = _from_json(folder / "tokenizer.json", config), {}
    elif (folder / "vocab.json").exists() or (folder / "merges.txt").exists():
        backend, defaults = _byte_level_bpe(folder, config), _BART
    elif (folder / "vocab.txt").exists():
        backend, defaults = _word_piece(folder, config), _BERT
    else:
        raise _no_tokenizer(folder)
    special = {name: _content(value) for name, value in (defaults | _named(config)).items()}
    if not defaults:  # a bare tokenizer.json does not say which token is which
        special = _guessed(backend) | special
    for name, text in special.items():
        if backend.token_to_id(text) is None:
            raise ConfigurationError(f"{folder}: `{name}` is {text!r:.80}, and the tokenizer has no such token.")
    model_config = _json(folder / "config.json")
    prefix = config.get("prefix", model_config.get("prefix")) or ""
    vocab_size = model_config.get("vocab_size")
    if not isinstance(prefix, str) or not isinstance(vocab_size, int | None):
        raise ConfigurationError(
            f"{folder / 'config.json'}: `prefix` must be a string and `vocab_size` an integer. Got {prefix!r:.80} and "
            f"{vocab_size!r:.80}."
        )
    return TokenizerFiles(backend, special, prefix, vocab_size)


def _json(path: Path) -> dict[str, Any]:
    return read_json(path, _MAX_BYTES) if path.exists() else {}


def _named(config: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens that tokenizer_config.json or special_tokens_map.json names."""
    return {name: config[name] for name in _NAMES if config.get(name) is not None}


def _content(token: Any) -> str:
    """The text of a token, which these files write as a string, or as an object with its settings."""
    content = token.content if isinstance(token, AddedToken) else token
    content = content.get("content") if isinstance(content, Mapping) else content
    if not isinstance(content, str) or not content:
        raise ConfigurationError(f"A special token must be a text. Got {token!r:.80}.")
    return content


def _added_token(token: Any, *, special: bool) -> AddedToken:
    if isinstance(token, AddedToken):
        return token
    content = _content(token)
    settings = token if isinstance(token, Mapping) else {}
    switches = {name: settings[name] for name in ("lstrip", "rstrip", "single_word") if name in settings}
    if not all(isinstance(value, bool) for value in switches.values()):
        raise ConfigurationError(f"The settings of the token {content!r:.80} must be true or false. Got {switches}.")
    return AddedToken(content, **switches, normalized=settings.get("normalized", not special), special=special)


@contextlib.contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Turns the errors of `tokenizers` into a `DamagedFileError`. Its panics are no `Exception`s."""
    try:
        yield
    except CheckpointError:
        raise
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise DamagedFileError(
                f"{path} does not describe a tokenizer ({' '.join(str(error).split()):.200}): download it again."
            ) from None
        raise


def _from_json(path: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    read_json(path, _MAX_BYTES)  # strict, where the library accepts duplicate keys
    with damaged(path):
        backend = tokenizers.Tokenizer.from_str(path.read_text("utf-8-sig"))
    backend.no_truncation()  # the file may hold those of its training
    backend.no_padding()
    model = backend.model
    if isinstance(model, models.BPE) and model.dropout:
        raise UnsupportedCheckpointError(
            f"{path} has a BPE with dropout={model.dropout}, which draws other tokens at every call. Set it to null."
        )
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel) and "add_prefix_space" in config:
        backend.pre_tokenizer.add_prefix_space = bool(config["add_prefix_space"])
    return backend


def _byte_level_bpe(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    vocab = _vocabulary(folder / "vocab.json")
    merges_path = folder / "merges.txt"
    lines = _text(merges_path).split("\n")
    merges = []
    for line in lines[1:] if lines[0].startswith("#version") else lines:
        match line.split():
            case [left, right]:
                merges.append((left, right))
            case [_, *_]:
                raise DamagedFileError(f"{merges_path} must hold one merge of two parts a line. Got {line!r:.80}.")
    if not merges:  # every text would fall into its bytes
        raise DamagedFileError(f"{merges_path} holds no merges: download it again.")
    special = _BART | _named(config)
    unk, sep, cls = (_content(special[name]) for name in ("unk_token", "sep_token", "cls_token"))
    add_prefix_space = bool(config.get("add_prefix_space", False))
    with damaged(merges_path):
        # An unknown token is one of a vocabulary that lacks some bytes.
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token=unk if unk in vocab else None))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    _add_tokens(folder, backend, special, config)
    backend.post_processor = processors.RobertaProcessing(
        _with_id(backend, sep), _with_id(backend, cls), add_prefix_space=add_prefix_space
    )
    return backend


def _word_piece(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    for name, value in _BERT_FIXED.items():
        if config.get(name, value) != value:
            raise UnsupportedCheckpointError(
                f"{folder / 'tokenizer_config.json'}: `{name}` must be {value!r}. Got {config[name]!r:.80}."
            )
    path = folder / "vocab.txt"
    vocab = {token.rstrip("\r"): index for index, token in enumerate(_text(path).removesuffix("\n").split("\n"))}
    special = _BERT | _named(config)
    unk, sep, cls = (_content(special[name]) for name in ("unk_token", "sep_token", "cls_token"))
    with damaged(path):
        backend = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token=unk, max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
        lowercase=bool(config.get("do_lower_case", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    _add_tokens(folder, backend, special, config)
    backend.post_processor = processors.BertProcessing(_with_id(backend, sep), _with_id(backend, cls))
    return backend


def _add_tokens(
    folder: Path, backend: tokenizers.Tokenizer, special: Mapping[str, Any], config: Mapping[str, Any]
) -> None:
    """Add the special tokens, and those that a fine-tuned checkpoint has added, under the ids that its files state."""
    named = {_content(token): _added_token(token, special=True) for token in special.values()}
    extra = config.get("additional_special_tokens") or []
    named |= {_content(token): _added_token(token, special=True) for token in extra}
    stated: dict[int, AddedToken] = {}
    try:
        for text, index in _json(folder / "added_tokens.json").items():
            stated[int(index)] = named.get(text) or AddedToken(text, normalized=True)
        for index, token in (config.get("added_tokens_decoder") or {}).items():
            stated[int(index)] = _added_token(token, special=bool(token.get("special")))
    except (AttributeError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise DamagedFileError(f"{folder}: its added tokens are not pairs of a token and an id ({error}).") from None
    backend.add_tokens([stated[index] for index in sorted(stated)])
    backend.add_special_tokens([token for text, token in named.items() if text not in _contents(stated)])
    for index, token in stated.items():
        if backend.token_to_id(token.content) != index:
            raise ConfigurationError(
                f"{folder}: the added token {token.content!r:.80} must have the id {index}. It would have "
                f"{backend.token_to_id(token.content)}: its files are of different tokenizers."
            )


def _with_id(backend: tokenizers.Tokenizer, token: str) -> tuple[str, int]:
    index = backend.token_to_id(token)
    assert index is not None  # `_add_tokens` has added it
    return token, index


def _contents(tokens: Mapping[int, AddedToken]) -> set[str]:
    return {token.content for token in tokens.values()}


def _vocabulary(path: Path) -> dict[str, int]:
    vocab = read_json(path, _MAX_BYTES)
    if not vocab or not all(type(index) is int and 0 <= index < 2**31 for index in vocab.values()):
        raise DamagedFileError(f"{path} must map tokens to ids: download it again.")
    return vocab


def _text(path: Path) -> str:
    try:
        return read_bytes(path, _MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is not UTF-8 ({error}): download it again.") from None


def _guessed(backend: tokenizers.Tokenizer) -> dict[str, str]:
    """BART's names, or else BERT's, of the special tokens that the tokenizer has."""
    for names in (_BART, _BERT):
        if backend.token_to_id(_content(names["pad_token"])) is not None:
            found = {name: _content(token) for name, token in names.items()}
            return {name: text for name, text in found.items() if backend.token_to_id(text) is not None}
    return {}


def _no_tokenizer(folder: Path) -> CheckpointError:
    if not folder.is_dir():
        return SourceNotFoundError(f"There is no folder {folder}: check its spelling and the current directory.")
    if found := [name for name in _SENTENCEPIECE if (folder / name).exists()]:
        return UnsupportedCheckpointError(
            f"{folder / found[0]} is a SentencePiece tokenizer, and BART's is not: is this an mBART? If not, load it "
            "with transformers' AutoTokenizer, whose `save_pretrained` writes a tokenizer.json."
        )
    return SourceNotFoundError(
        f"{folder} has no tokenizer: neither tokenizer.json, nor vocab.json with merges.txt, nor vocab.txt. Copy the "
        "files of the checkpoint that the model was trained from."
    )
