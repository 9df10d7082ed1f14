from .errors import (
    BatchError as BatchError,
    InputError as InputError,
    ManifestMismatchError as ManifestMismatchError,
    OutputError as OutputError,
    OutputLockedError as OutputLockedError,
)
from .identity import checkpoint_identity as checkpoint_identity, versions as versions
from .records import Failure as Failure, Field as Field, Record as Record, RecordFormat as RecordFormat
from .run import Report as Report, run_file as run_file
from .run_records import Run as Run
from .run_stream import run_stream as run_stream
from .signals import Stop as Stop
