"""The one error of this room."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read or written as asked. The message says where, what is wrong, and the remedy."""
