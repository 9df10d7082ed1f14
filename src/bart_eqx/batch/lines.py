"""Lines of a file as text."""

MAX_LINE = 2**26  # bytes. A line is held in memory whole


def decoded(line: bytes) -> str:
    """Raises `ValueError` with the reason if the line is too long, or not UTF-8."""
    if len(line) > MAX_LINE:
        raise ValueError(f"it has more than {MAX_LINE:,} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        wrong = line[error.start : error.start + 1]
        raise ValueError(
            f"it is not UTF-8 (byte {error.start + 1}: {wrong!r}): convert it, for example with iconv"
        ) from None


def content_of(number: int, line: bytes) -> bytes:
    """A line without its end, and the first without a byte order mark."""
    line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    return line.removesuffix(b"\n").removesuffix(b"\r")
