"""Checkpoints of a training run, with Orbax: the state, the place in the data and the run's progress, as one."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax

from .extras import library
from .step import TrainState


class Restored(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    data: dict[str, Any]
    progress: dict[str, Any]


class Checkpoints:
    """The last checkpoints of a run, each in a folder with the number of its step.

    `save` copies the state and returns; the files are written meanwhile, and appear complete or not at all. Use it in a
    `with` block, which waits for them at its end.
    """

    def __init__(self, folder: str | Path, *, keep: int = 3):
        """
        Args:
            folder: Created if it does not exist.
            keep: How many checkpoints stay.

        Raises:
            ImportError: if the extra `train` is not installed.
        """
        ocp = self._orbax = library("orbax.checkpoint")
        self._folder = Path(folder).expanduser().resolve()
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
            item_names=("state", "data", "progress"),
        )

    def save(self, state: TrainState, data: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint, once the one before is written.

        Args:
            state: May be donated as soon as this returns.
            data: The state of the data's iterator, `get_state()`.
            progress: What else the run must know when it goes on, as JSON.
        """
        args = self._orbax.args
        self._manager.save(
            int(state.step),
            args=args.Composite(
                state=args.StandardSave(state), data=args.JsonSave(dict(data)), progress=args.JsonSave(dict(progress))
            ),
        )

    def restore(self, like: TrainState) -> Restored | None:
        """The last checkpoint, or `None` if there is none.

        Args:
            like: A state with the structure, shapes, dtypes and placement of the one that is wanted: the one that
                training starts from. The devices may be others than those of the run that wrote the checkpoint.

        Raises:
            ValueError: if the checkpoint is of another model or optimiser.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._orbax.args
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        wanted = args.Composite(
            state=args.StandardRestore(shapes), data=args.JsonRestore(), progress=args.JsonRestore()
        )
        try:
            found = self._manager.restore(step, args=wanted)
        except ValueError as error:
            raise ValueError(
                f"The checkpoint of step {step} in {self._folder} is not of this model and optimiser: train in another "
                f"folder. ({error})"
            ) from None
        return Restored(found["state"], found["data"], found["progress"])

    def wait(self) -> None:
        """Until all checkpoints are written."""
        self._manager.wait_until_finished()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._manager.close()
