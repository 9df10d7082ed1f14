"""What a compiled program moves between devices: its collective operations, read from the program's text."""

import math
import re


_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}


def bytes_moved(program: str) -> dict[str, int]:
    """The bytes of the results of collective operations on one device, by kind.

    An operation inside a loop counts once. A ring of n devices sends (n - 1) / n of an all-gather's result from each,
    and twice that of an all-reduce's.

    Args:
        program: The text of a program compiled for CPU, `compiled.as_text()`.

    Raises:
        ValueError: if an operation is asynchronous, as on GPU and TPU: its result has its operand in it.
    """
    if asynchronous := re.search(rf"({_KINDS})-start\(", program):
        raise ValueError(f"Only programs for CPU can be counted. Got {asynchronous[1]}-start.")
    total: dict[str, int] = {}
    for result, kind in re.findall(rf"= (.*?) ({_KINDS})\(", program):
        total[kind] = total.get(kind, 0) + sum(
            _BYTES[dtype] * math.prod(int(size) for size in shape.split(",") if size)
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        )
    return total
