"""Scripts of this folder in processes of their own: JAX counts its devices when it starts."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def start(script: str, devices: int, *arguments: str) -> "subprocess.Popen[str]":
    """A script on virtual CPU devices, with its output in one pipe."""
    path = Path(__file__).parent / script
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join([str(path.parent), *sys.path]),
    }
    command = [sys.executable, "-W", "error::UserWarning", str(path), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ends_well(process: "subprocess.Popen[str]") -> str:
    """The output of a script, which says that all was the same."""
    with process:  # closes its pipe
        output, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and output.rstrip().endswith("all the same"), output[-3000:]
    return output


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
