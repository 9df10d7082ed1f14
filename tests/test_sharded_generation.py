"""`generate` and `stream` of inputs on several devices: the tokens of one device, and they stay where they are."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


SCRIPT = Path(__file__).parent / "sharded_generation.py"


def start(devices: int, *arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(SCRIPT.parent), *sys.path]),
    }
    command = [sys.executable, "-W", "error::UserWarning", str(SCRIPT), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ends_well(process: "subprocess.Popen[str]") -> None:
    with process:  # closes its pipe
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and output.rstrip().endswith("all the same"), output[-3000:]


def test_eight_devices() -> None:
    ends_well(start(8))


@pytest.mark.slow
def test_two_processes() -> None:
    """Neither sees the other's half of an array."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    both = [start(4, port, rank) for rank in ("0", "1")]
    for process in both:
        ends_well(process)
