"""What a file is: texts, JSON lines or a table by its name; and, by its first bytes, what is none of them."""

import re
from pathlib import Path

from ..batch.csv_rows import DELIMITERS
from .errors import UsageError


# Arguments that look like these are names, also where there is no such file: it is missing.
FILE_NAME = re.compile(r"\S+\.(jsonl|ndjson|json|csv|tsv|txt|md|html?|xml|gz|bz2|xz|zst|zip|parquet|xlsx?|docx?|pdf)")
_FORMS = {".jsonl": "jsonl", ".ndjson": "jsonl"} | dict.fromkeys(DELIMITERS, "csv")
# The first bytes, what begins with them, and how lines are made of it.
_OTHER_KINDS = (
    (b"\x1f\x8b", "is compressed by gzip", "unpack it: gzip -dc FILE | bart-eqx ... --from jsonl"),
    (b"BZh", "is compressed by bzip2", "unpack it: bzip2 -dc FILE | bart-eqx ... --from jsonl"),
    (b"\xfd7zXZ", "is compressed by xz", "unpack it: xz -dc FILE | bart-eqx ... --from jsonl"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd", "unpack it: zstd -dc FILE | bart-eqx ... --from jsonl"),
    (b"\xff\xfe", "is UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"\xfe\xff", "is UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE"),
    (b"PK\x03\x04", "is a ZIP archive, as .xlsx and .docx files are", "save it as text or CSV, in UTF-8"),
    (b"PAR1", "is Parquet", "write it as JSON lines"),
    (b"%PDF-", "is a PDF", "extract its text"),
)


def form_of(path: Path) -> str:
    """What the name of a file says that it is."""
    return _FORMS.get(path.suffix.lower(), "text")


def check_first_bytes(content: bytes, name: str, form: str | None) -> None:
    """Refuse what would be read as something that it is not.

    Args:
        content: The first bytes of an input.
        name: Of the input, for messages.
        form: What somebody has said that it is; `None` if it is taken for text.

    Raises:
        UsageError: if it is of another kind.
    """
    for first, kind, advice in _OTHER_KINDS:
        if content.startswith(first):
            raise UsageError(f"{name} {kind}: {advice}.")
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if form in (None, "jsonl") and re.match(rb"\[\s*\{", start):
        raise UsageError(
            f"{name} is one JSON list, and JSON lines have an object on each line: jq -c '.[]' FILE | bart-eqx ... "
            "--from jsonl."
        )
    if form is None and start.startswith(b"{"):
        raise UsageError(f"{name} begins with {{: is it JSON lines (--from jsonl), or text (--from text)?")
