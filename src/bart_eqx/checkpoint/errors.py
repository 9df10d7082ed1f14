"""Errors of reading and writing checkpoints: one subclass of `CheckpointError` for each kind.

Every message is one line: the file, what was expected, what was found, and what to do.
"""

_MAX_LENGTH = 10_000  # characters: a message lists names, and a damaged file can hold any number of them


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written as requested.

    Args:
        message: One line. Control characters are escaped, and a very long message is cut.
    """

    def __init__(self, message: str):
        super().__init__(printable(message if len(message) <= _MAX_LENGTH else f"{message[:_MAX_LENGTH]} ..."))


def printable(text: str) -> str:
    """`text` with non-printable characters escaped. Names come from untrusted files and may hold terminal commands."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class SourceNotFoundError(CheckpointError):
    """The folder, file, repository, revision or subfolder does not exist."""


class AccessError(CheckpointError):
    """It exists and cannot be read: a private, gated or disabled repository, or a file without read permission."""


class DownloadError(CheckpointError):
    """The Hub is unreachable or sent something invalid, and the local cache is incomplete."""


class DamagedFileError(CheckpointError):
    """A file is incomplete, or is not of the format that its name says."""


class UnsupportedCheckpointError(CheckpointError):
    """A valid checkpoint of another architecture, or in a format that is not read here."""


class ConfigurationError(CheckpointError):
    """config.json or generation_config.json contradicts itself, or asks for something that is not implemented."""


class MismatchError(CheckpointError):
    """The weights do not fit the configuration: names, shapes, dtypes, or copies of one parameter that differ."""


class NonFiniteError(CheckpointError):
    """A weight is NaN or infinite, or would overflow in the requested dtype."""


class TargetError(CheckpointError):
    """The target cannot be written: it exists, it is the source, permissions, or too little disk space."""


class VerificationError(CheckpointError):
    """The file on disk differs from what was written."""
