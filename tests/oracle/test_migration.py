"""Every call of `docs/migration.md`, ours and theirs."""

from pathlib import Path
from shutil import copytree
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import bart_eqx
import migration_page
from support import CLASSES, flatten


def contents(result: Any) -> dict[Any, Any]:
    """Arrays and numbers by name: those of parameters have the same names on both sides."""
    if isinstance(result, tuple(CLASSES)):
        result = bart_eqx.to_flax(result)
    result = getattr(result, "params", result)
    return flatten(result) if isinstance(result, dict) else dict(enumerate(jax.tree.leaves(result)))


def assert_same(ours: Any, theirs: Any) -> None:
    ours, theirs = contents(ours), contents(theirs)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert np.shape(ours[name]) == np.shape(expected)
        np.testing.assert_allclose(np.float64(ours[name]), np.float64(expected), rtol=2e-5, atol=2e-5)


@pytest.mark.filterwarnings("ignore")  # transformers has much to say
def test_each_call_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The results of each row, and every array that has the same name on both sides."""
    copytree(Path(bart_eqx.__file__).parent / "demo", tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    ours, theirs = {}, {}
    assert migration_page.run(ours, theirs, assert_same) >= 30
    shared = {name for name in ours.keys() & theirs.keys() if eqx.is_array(ours[name])}
    assert shared >= {"loss", "logits", "tokens", "input_ids"}
    for name in shared - {"labels"}:  # ours has -100 for padding, theirs pad_token_id
        assert_same(ours[name], theirs[name])
    assert_same(ours["written"], theirs["written"])
