"""Tests that download gigabytes run only on request: `make test-hub`."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "hub" not in config.option.markexpr:
        wanted = [item for item in items if item.get_closest_marker("hub") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
        items[:] = wanted
