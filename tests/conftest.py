"""Fixtures shared by the tests: models are built once."""

import importlib.util
from collections.abc import Iterator

import jax
import pytest

import bart_eqx
from support import CONFIGS, random_model


# These need environments of their own: `make test-oracle`, `make test-ray`.
_ELSEWHERE = {"flax": "oracle", "ray": "on_ray"}
collect_ignore = [folder for module, folder in _ELSEWHERE.items() if not importlib.util.find_spec(module)]


@pytest.fixture(scope="module", autouse=True)
def compiled_programs() -> Iterator[None]:
    """Dropped after each file: a process that keeps all of them reaches Linux's limit of memory maps, and crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def config() -> bart_eqx.BartConfig:
    return bart_eqx.BartConfig(**CONFIGS["unequal"])


@pytest.fixture(scope="session")
def model(config: bart_eqx.BartConfig) -> bart_eqx.BartForConditionalGeneration:
    return random_model(bart_eqx.BartForConditionalGeneration, config)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
