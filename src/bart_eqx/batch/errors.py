"""Errors that stop a run. Every message is one line: what held, what was found, and what to do."""


class BatchError(Exception):
    """A file cannot be processed. What has been computed stays, and the next run continues from it."""


class InputError(BatchError):
    """The input cannot be read, or was changed while it was read."""


class OutputError(BatchError):
    """The output cannot be written: a full disk, permissions, or a file of another origin."""


class OutputLockedError(BatchError):
    """Another process writes the same output."""


class ManifestMismatchError(BatchError):
    """The output was started from another input, model, task, option or version."""
