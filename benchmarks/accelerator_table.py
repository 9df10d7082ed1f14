"""The record of `accelerator.py` as tables, with the share of the bandwidth that a decoding step reaches."""

from typing import Any

from bounds import SIZES, Ceilings


# The variant of PyTorch that has the precision of each of ours.
COUNTERPARTS = {"bfloat16": "bfloat16", "float32": "tf32", "highest": "eager"}
ITEMSIZE = {"bfloat16": 2}


def device_of(record: dict[str, Any]) -> dict[str, Any] | None:
    found = [figure for part in record["parts"] for figure in part["figures"] if figure["figure"] == "device"]
    return found[0] if found else None


def rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """For every call of `generate`: the bytes that a step must read, and the share of the bandwidth reached."""
    device, loads, rows = device_of(record), {}, []
    figures = [figure for part in record["parts"] for figure in part["figures"]]
    for figure in figures:
        if figure["figure"] == "load":
            loads[figure["peer"], figure["variant"]] = figure["load"]
        if figure["figure"] != "generate":
            continue
        peer, variant, batch = figure["peer"], figure["variant"], figure["batch"]
        size, lengths = SIZES[record["setting"]["size"]], [figure["src"]] * batch
        past = batch * figure["beams"] * figure["new"] / 2  # on average
        needed = size.step_bytes(lengths, past=past, itemsize=ITEMSIZE.get(variant, 4))
        reached = needed / figure["seconds_per_step"]
        names = ("peer", "variant", "batch", "compile", "median", "peak_bytes", "first_row")
        row = {name: figure[name] for name in names}
        row |= dict(load=loads[peer, variant], prefill=figure["prefill"]["median"], step=figure["seconds_per_step"])
        row |= dict(step_bytes=needed, bytes_per_second=reached)
        if device is not None:
            measured = max(device["read_bytes_per_second"], device["copied_bytes_per_second"])
            row |= dict(of_measured=reached / measured)
            if device["data_sheet_bytes_per_second"] is not None:
                row |= dict(of_data_sheet=reached / device["data_sheet_bytes_per_second"])
            if peer == "ours":
                ceilings = Ceilings(measured, device["flops_per_second"][variant])
                bound = size.encode(ceilings, lengths) + size.read_source(ceilings, lengths)
                row |= dict(prefill_of_bound=bound / row["prefill"])
        rows.append(row)
    return rows


def counterpart(figures: list[dict[str, Any]], figure: dict[str, Any]) -> dict[str, Any] | None:
    """PyTorch's figure for the task of one of our figures."""
    if figure["peer"] != "ours":
        return None
    of_theirs = ("hf_torch", COUNTERPARTS[figure["variant"]])
    same = lambda other: all(other.get(name) == figure.get(name) for name in ("batch", "src", "tgt"))
    found = [other for other in figures if (other["peer"], other["variant"]) == of_theirs and same(other)]
    return found[0] if found else None


def times(theirs: dict[str, Any] | None, figure: dict[str, Any], name: str) -> str:
    """Their number as a multiple of ours."""
    return "" if theirs is None else f"{theirs[name] / figure[name]:.2f}"


def same_tokens(theirs: dict[str, Any] | None, row: dict[str, Any]) -> str:
    """The share of equal tokens of the first source."""
    if theirs is None:
        return ""
    same = [one == other for one, other in zip(theirs["first_row"], row["first_row"], strict=True)]
    return f"{sum(same) / len(same):.0%}"


def table(record: dict[str, Any]) -> str:
    figures = [figure for part in record["parts"] for figure in part["figures"]]
    of_kind = lambda *kinds: [figure for figure in figures if figure["figure"] in kinds]
    device, lines = device_of(record), []
    if device is not None:
        read, copied, sheet = (
            "unknown" if device[name] is None else f"{device[name] / 1e9:.0f} GB/s"
            for name in ("read_bytes_per_second", "copied_bytes_per_second", "data_sheet_bytes_per_second")
        )
        rates = ", ".join(f"{name} {rate / 1e12:.2f}" for name, rate in device["flops_per_second"].items())
        lines.append(
            f"{device['kind']}, jax {device['versions']['jax']}. Memory: {read} read, {copied} copied, {sheet} by the "
            f"data sheet. Products, TFLOP/s: {rates}."
        )
    lines += ["", "| parity | difference | limit | passed | s |", "|---|---|---|---|---|"]
    for figure in of_kind("parity"):
        limit = "" if figure["limit"] is None else f"{figure['limit']:.0e}"
        passed = {True: "yes", False: "NO", None: ""}[figure["passed"]]
        lines.append(
            f"| {figure['check']} | {figure['difference']:.1e} | {limit} | {passed} | {figure['seconds']:.0f} |"
        )
    setting, rows = record["setting"], rows_of(record)
    if rows:
        lines += [
            "",
            f"{setting['size']}, source {setting['src']}, 4 beams, {setting['new']} tokens",
            "",
            "| | batch | load, s | compile, s | all, s | prefill, ms | of its bound | step, ms | step reads, MB | "
            "of measured GB/s | of data sheet | peak GiB | torch's all | its prefill | its step | same tokens |",
            "|" + "---|" * 16,
        ]
    share = lambda row, name: f"{row[name]:.0%}" if name in row else ""
    for row in rows:
        theirs = counterpart(rows, row)
        against = (*(times(theirs, row, name) for name in ("median", "prefill", "step")), same_tokens(theirs, row))
        lines.append(
            f"| {row['peer']} {row['variant']} | {row['batch']} | {row['load']:.1f} | {row['compile']:.1f} | "
            f"{row['median']:.3f} | {row['prefill'] * 1e3:.1f} | {share(row, 'prefill_of_bound')} | "
            f"{row['step'] * 1e3:.3f} | {row['step_bytes'] / 1e6:.1f} | {share(row, 'of_measured')} | "
            f"{share(row, 'of_data_sheet')} | {gib(row['peak_bytes'])} | {' | '.join(against)} |"
        )
    others = of_kind("encode", "train")
    if others:
        lines += ["", "| | | compile, s | ms | peak GiB | torch's |", "|---|---|---|---|---|---|"]
    for figure in others:
        shape = ", ".join(f"{name} {figure[name]}" for name in ("batch", "src", "tgt") if name in figure)
        attention = f", {figure['attention']} attention" if "attention" in figure else ""
        name = f"{figure['peer']} {figure['variant']} | {figure['figure']}, {shape}{attention}"
        if figure.get("error"):
            lines.append(f"| {name} | failed: {figure['error'].splitlines()[0][:100]} | | | |")
            continue
        same_kind = [other for other in others if other["figure"] == figure["figure"]]
        lines.append(
            f"| {name} | {figure['compile']:.1f} | {figure['median'] * 1e3:.2f} | {gib(figure['peak_bytes'])} | "
            f"{times(counterpart(same_kind, figure), figure, 'median')} |"
        )
    for figure in of_kind("difference of fused attention"):
        lines.append(
            f"\nFused attention, batch {figure['batch']}: {figure['difference']:.1e} of the largest state apart."
        )
    for part in record["parts"]:
        if part["error"] is not None:
            lines += ["", f"{part['name']}: {(part['error'].strip().splitlines() or ['ended without a word'])[-1]}"]
    return "\n".join(lines) + "\n"


def gib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f}"
