"""Models on many devices: meshes, the shardings of parameters, and jobs of several processes."""

from ..lazy_beartype import check_signatures_in


check_signatures_in(__name__)

from .gathered import gathered as gathered  # noqa: E402
from .mesh import make_mesh as make_mesh  # noqa: E402
from .processes import OtherProcessError as OtherProcessError, initialize as initialize  # noqa: E402
from .shardings import (  # noqa: E402
    RULES as RULES,
    Rules as Rules,
    shard as shard,
    shard_batch as shard_batch,
    shardings as shardings,
)
