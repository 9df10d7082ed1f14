"""Results as lines of text."""

import json
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO


class TextOutput:
    """Takes JSON lines, and writes a line of text for each.

    If the records are lines of text themselves, output line `n` is that of input line `n`: empty if the record failed.
    """

    def __init__(self, output: BinaryIO, text: Callable[[Mapping[str, Any]], str], *, encoding: str, aligned: bool):
        """
        Args:
            output: Written to.
            text: A result as text.
            encoding: The encoding of the text. Characters that it lacks are escaped.
            aligned: Whether the records are lines of text, whose ids are their line numbers.
        """
        self._output, self._text, self._encoding, self._aligned = output, text, encoding, aligned
        self._line = 1

    def write(self, lines: bytes) -> int:
        for line in lines.splitlines():
            result = json.loads(line)
            if self._aligned:
                self._fill(result["id"])
            # A line break inside a text would begin another record's line.
            self._write(" ".join(self._text(result).splitlines()))
        return len(lines)

    def flush(self) -> None:
        self._output.flush()

    def end(self, lines: int) -> None:
        """Fill up with empty lines, to one for each of the input's `lines`."""
        if self._aligned:
            self._fill(lines + 1)
        self.flush()

    def _fill(self, line: int) -> None:
        while self._line < line:
            self._write("")

    def _write(self, text: str) -> None:
        self._output.write(f"{text}\n".encode(self._encoding, "backslashreplace"))
        self._line += 1
