"""Fixtures shared by the tests: models are built once."""

import importlib.util
from collections.abc import Iterator

import jax
import pytest

import bart_eqx
from support import CONFIGS, random_model


# The live comparisons need their own environment: `make test-oracle`.
collect_ignore = [] if importlib.util.find_spec("flax") else ["oracle"]


@pytest.fixture(scope="module", autouse=True)
def compiled_programs() -> Iterator[None]:
    """Dropped after each file: a process that keeps them all reaches the system's limit of memory maps, and crashes."""
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
