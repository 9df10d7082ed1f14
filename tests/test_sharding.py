"""Rows on several devices: the numbers of one device, for a share of its work each, and they stay where they are."""

from subprocesses import ends_well, start


def test_eight_devices() -> None:
    ends_well(start("sharded_generation.py", 8))


def test_an_eighth_of_the_work() -> None:
    """Encoding, loss, gradients and generation on eight devices; and meshes that are refused."""
    ends_well(start("sharded_model.py", 8))
