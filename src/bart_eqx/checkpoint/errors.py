"""What can be wrong with a checkpoint: one type of error for each kind, all of them `CheckpointError`.

Each message is one line. It names the file, what was expected of it, what was found, and what to do.
"""

_LONGEST = 10_000  # characters: a message names what is missing, and a file may make that endless


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written as asked."""

    def __init__(self, message: str):
        super().__init__(printable(message if len(message) <= _LONGEST else f"{message[:_LONGEST]} ..."))


def printable(text: str) -> str:
    """One line: names come from files, and some are made to play with the terminal that shows them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class SourceNotFoundError(CheckpointError):
    """There is no such folder, file, repository, revision or subfolder."""


class AccessError(CheckpointError):
    """It exists, and may not be read: a private, gated or disabled repository, or a file of somebody else's."""


class DownloadError(CheckpointError):
    """The Hub cannot be reached, or sends something else than was asked for; nothing in the cache stands in."""


class DamagedFileError(CheckpointError):
    """A file is not what its name says, or not a whole one."""


class UnsupportedCheckpointError(CheckpointError):
    """A sound checkpoint, of another architecture or in a format that is not read here."""


class ConfigurationError(CheckpointError):
    """config.json or generation_config.json contradicts itself, or asks for what is not implemented."""


class MismatchError(CheckpointError):
    """The weights are not those of a model of this configuration: names, shapes, dtypes, or copies that differ."""


class NonFiniteError(CheckpointError):
    """A weight is NaN or infinite, or would be in the dtype that was asked for."""


class TargetError(CheckpointError):
    """The target cannot be written: it exists, it is the source, there is no permission, or no room."""


class VerificationError(CheckpointError):
    """What lies on the disk is not what was written there."""
