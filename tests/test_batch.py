"""Files in parts: records, shards, what is refused, and several processes on one output."""

import csv
import dataclasses
import errno
import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import batch_task
from bart_eqx.batch import (
    Failure,
    Field,
    InputError,
    ManifestMismatchError,
    OutputError,
    OutputLockedError,
    Record,
    RecordFormat,
    Report,
    Run,
    checkpoint_identity,
    run_file,
    run_stream,
    versions,
)
from bart_eqx.batch.csv_rows import header_of
from bart_eqx.batch.lines import MAX_LINE
from bart_eqx.batch.output import Output
from bart_eqx.batch.parts import Scan, read_part
from bart_eqx.batch.records import UnreadRecord, read_records
from batch_task import FORMAT, IDENTITY, contents, run_in as run, write_input


def never() -> Run:
    raise AssertionError("the task must not be loaded")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An input of a few parts, and what an uninterrupted run makes of it, `whole`."""
    write_input(tmp_path / "in.jsonl", 300)
    assert run(tmp_path, "whole.jsonl").parts >= 5
    return tmp_path


# Records


def test_what_is_written_for_each_record(folder: Path) -> None:
    """The id, the other fields unchanged, the result; and every failure with its reason, in the order of the lines."""
    expected, failures = [], []
    for number, line in enumerate((folder / "in.jsonl").read_text().split("\n"), 1):
        try:
            fields = json.loads(line) if line else dict[str, Any](id=None)
        except ValueError:
            failures.append(
                {
                    "id": number,
                    "error": f"line {number}: it is not JSON (Unterminated string starting at at character 16)",
                }
            )
            continue
        if fields["id"] == "empty":
            failures.append({"id": "empty", "error": f"line {number}: it has no field 'text'; it has 'id'"})
        elif fields.get("text") == "unlucky":
            failures.append({"id": fields["id"], "error": "a text without luck"})
        elif line:
            expected.append({"id": fields["id"], "kept": fields["kept"], "reversed": fields["text"][::-1]})
    written = [[json.loads(line) for line in each.splitlines()] for each in contents(folder, "whole")]
    assert written == [expected, failures] and len(expected) == 299 and len(failures) == 3
    assert '"é"' in (folder / "whole.jsonl").read_text()


def read(line: bytes, number: int = 3, format: RecordFormat = FORMAT) -> Record | str:
    (found,) = read_records([(number, line)], format)
    return f"{found.id}: {found.failure.error}" if isinstance(found, UnreadRecord) else found


LABELS = RecordFormat("jsonl", {"text": Field("body"), "labels": Field("labels", "strings", required=False)}, "key")


@pytest.mark.parametrize(
    ("line", "format", "error"),
    [
        (b"[1]", FORMAT, "3: line 3: it must be a JSON object, and is a list"),
        (b'{"id": 7}', FORMAT, "7: line 3: it has no field 'text'; it has 'id'"),
        (b'{"text": null}', FORMAT, "3: line 3: its 'text' must be a string, and is null"),
        (b'{"text": "a", "id": 1.0}', FORMAT, "3: line 3: its 'id' must be a string or an integer, and is a number"),
        (b'{"text": "a", "id": true}', FORMAT, "3: line 3: its 'id' must be a string or an integer, and is a boolean"),
        (
            b'{"text": "a", "reversed": 1}',
            FORMAT,
            "3: line 3: it has a field 'reversed', which the result would replace",
        ),
        (b'{"text": "a", "x": NaN}', FORMAT, "3: line 3: NaN is not a JSON number"),
        (b'{"text": "a", "x": 1e999}', FORMAT, "3: line 3: 1e999 is not finite"),
        (b'{"text": "a", "text": "b"}', FORMAT, "3: line 3: it has 'text' twice"),
        (b'{"text": "a", "x": ' + b"[" * 100_000, FORMAT, "3: line 3: it is nested more than 100 levels deep"),
        (b'{"text": "a", "x": ' + b"9" * 5_000 + b"}", FORMAT, "3: line 3: Exceeds the limit"),
        (b'{"text": "\xff"}', FORMAT, r"3: line 3: it is not UTF-8 (byte 11: b'\xff')"),
        (b'{"body": "a"}', LABELS, "3: line 3: it has no field 'key'"),
        (b'{"key": "k", "body": "a", "labels": ["b", 1]}', LABELS, "k: line 3: its 'labels' must be a list of strings"),
    ],
)
def test_a_line_that_is_no_record(line: bytes, format: RecordFormat, error: str) -> None:
    found = read(line, format=format)
    assert isinstance(found, str) and found.startswith(error)


@pytest.mark.parametrize(
    ("line", "format", "record"),
    [
        (b'{"text": "a", "id": 5}', FORMAT, Record(3, 5, {"text": "a"}, {"id": 5})),
        (b'{"text": "a", "n": 9007199254740993}\r\n', FORMAT, Record(3, 3, {"text": "a"}, {"id": 3, "n": 2**53 + 1})),
        (b'{"text": "\\ud800"}', FORMAT, Record(3, 3, {"text": "\ud800"}, {"id": 3})),  # the tokenizer refuses it
        ('{"text": "a\u2028b"}'.encode(), FORMAT, Record(3, 3, {"text": "a\u2028b"}, {"id": 3})),
        (b'{"id": 1, "key": "k", "body": "a"}', LABELS, Record(3, "k", {"text": "a"}, {"key": "k", "id": 1})),
        (
            b'{"key": "k", "body": "a", "labels": ["b"]}',
            LABELS,
            Record(3, "k", {"text": "a", "labels": ["b"]}, {"key": "k"}),
        ),
        (b" a, b \r\n", RecordFormat("text"), Record(3, 3, {"text": " a, b "}, {"id": 3})),
        (b"\n", RecordFormat("text"), Record(3, 3, {"text": ""}, {"id": 3})),
    ],
)
def test_a_record(line: bytes, format: RecordFormat, record: Record) -> None:
    found = read(line, format=format)
    assert found == record and isinstance(found, Record) and list(found.carried) == list(record.carried)


def test_the_first_line_may_start_with_a_byte_order_mark() -> None:
    assert read(b'\xef\xbb\xbf{"text": "a"}', 1) == Record(1, 1, {"text": "a"}, {"id": 1})
    assert isinstance(read(b'\xef\xbb\xbf{"text": "a"}', 2), str)


def test_plain_text_has_one_text_and_no_fields() -> None:
    with pytest.raises(ValueError, match="the task reads question, context: give JSON objects"):
        RecordFormat("text", {"question": Field("question"), "context": Field("context")})
    with pytest.raises(ValueError, match="no field 'key'"):
        RecordFormat("text", id_field="key")


TABLE = RecordFormat("csv", result_fields=("reversed",), columns=("id", "text"))


@pytest.mark.parametrize("part_bytes", [1, 60, 2**20])
def test_a_table_is_cut_between_rows(tmp_path: Path, part_bytes: int) -> None:
    """And not between the lines of one; in parts and as a stream."""
    rows = [(f"r{index}", f'a "quoted"\n\n{index}, ' * (index % 4) + "é") for index in range(40)]
    with (tmp_path / "in.jsonl").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    expected = [{"id": name, "reversed": text[::-1]} for name, text in rows]
    report = run(tmp_path, format=TABLE, part_bytes=part_bytes)
    assert report.failed == 0 and (report.parts == 1) == (part_bytes == 2**20)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == expected
    out = io.BytesIO()
    with (tmp_path / "in.jsonl").open("rb") as file:
        failed = lambda line: pytest.fail(line.decode())
        run_stream(batch_task.load(), file, out, format=TABLE, on_failure=failed, block_bytes=part_bytes)
    assert out.getvalue() == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("row", "error"),
    [
        (b"1,2,3", "3: line 3: it has 3 fields, and the header names 2"),
        (b'1,"a"b"c"', "3: line 3: it is not CSV (',' expected after '\"'): is a quotation mark missing"),
        (b'1,"a\n2,b', "3: line 3: it is not CSV (unexpected end of data): is a quotation mark missing"),
        (b'1,5" a\n2,7" b', "3: line 3: it is not CSV (new-line character seen in unquoted field"),
        (b"1,\xff", r"3: line 3: it is not UTF-8 (byte 3: b'\xff'): convert it"),
    ],
)
def test_a_row_that_is_no_record(row: bytes, error: str) -> None:
    found = read(row, format=TABLE)
    assert isinstance(found, str) and found.startswith(error)


@pytest.mark.parametrize(
    ("header", "delimiter", "columns"),
    [
        (b'\xef\xbb\xbfid,"the text"\r\n1,a\r\n', ",", ("id", "the text")),
        (b"id\ttext\n", "\t", ("id", "text")),
        (b'"two\nlines",b\n1,2\n', ",", ("two\nlines", "b")),
        (b"", ",", "must name the columns, and is empty"),
        (b"a,b,a\n", ",", "has the column 'a' twice"),
        (b'"a,b\n1,2\n', ",", "it is not CSV"),
    ],
)
def test_headers(header: bytes, delimiter: str, columns: tuple[str, ...] | str) -> None:
    if isinstance(columns, tuple):
        assert header_of(header, delimiter) == columns
        return
    with pytest.raises(ValueError, match=columns):
        header_of(header, delimiter)


def test_a_quotation_mark_that_is_not_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found before all of a large file is one row."""
    monkeypatch.setattr("bart_eqx.batch.parts.MAX_LINE", 100)
    (tmp_path / "in.jsonl").write_text('id,text\n1,"a\n' + "2,b\n" * 300)
    with pytest.raises(InputError, match="a quotation mark after line 2 that is not closed"):
        run(tmp_path, format=TABLE, part_bytes=4)


def test_fields_that_may_not_be_blank() -> None:
    for format, line, error in (
        (RecordFormat("text", {"text": Field("text", blank=False)}), b" \t\r\n", "3: line 3: it is empty"),
        (RecordFormat("jsonl", {"t": Field("a", blank=False)}), b'{"a": "\\u3000"}', "3: line 3: its 'a' is empty"),
        (
            RecordFormat("jsonl", {"t": Field("a", "strings", blank=False)}),
            b'{"a": ["b", ""]}',
            "3: line 3: its 'a' has a text that is empty",
        ),
    ):
        assert read(line, format=format) == error


def test_carried_values_that_utf8_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a", "kept": "\\ud800é"}\n')
    assert run(tmp_path).failed == 0
    assert (tmp_path / "out.jsonl").read_text() == '{"id": 1, "kept": "\\ud800\\u00e9", "reversed": "a"}\n'


def test_the_task_may_fail_a_record_and_a_result_that_cannot_be_written_does(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("a\nb\nc\nd\n")
    load = lambda: lambda records: [Failure("no"), {"score": float("nan")}, {"score": 0.5}, {"id": 0}]
    assert run(tmp_path, load=load, format=RecordFormat("text")).failed == 3
    output, failures = contents(tmp_path, "out")
    assert output == b'{"id": 3, "score": 0.5}\n'
    assert failures.startswith(b'{"id": 1, "error": "no"}\n{"id": 2, "error": "Out of range float values are not JSON')
    assert failures.endswith(
        b'{"id": 4, "error": "it has a field \'id\', which the result would replace: rename it"}\n'
    )


def test_a_failing_batch_is_halved_down_to_the_record(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(f"{index}\n" for index in range(64)))
    calls = []

    def task(records: Sequence[Record]) -> list[Mapping[str, Any]]:
        calls.append(len(records))
        if any(record.inputs["text"] == "40" for record in records):
            raise ValueError("bad forty")
        return [{"length": len(records)} for record in records]

    assert run(tmp_path, load=lambda: task, format=RecordFormat("text")).failed == 1
    assert (tmp_path / "out.failures.jsonl").read_text() == '{"id": 41, "error": "bad forty"}\n'
    assert len(calls) == 13  # whole, then two halves at each of six levels


@pytest.mark.parametrize("error", [MemoryError("full"), OSError(5, "broken"), TypeError("ours"), KeyboardInterrupt()])
def test_what_is_not_the_fault_of_a_record_ends_the_run(folder: Path, error: BaseException) -> None:
    def load() -> Run:
        def task(records: Sequence[Record]) -> Sequence[Mapping[str, Any] | Failure]:
            if records[0].line > 100:
                raise error
            return batch_task.load()(records)

        return task

    with pytest.raises(type(error)):
        run(folder, load=load)
    assert not (folder / "out.jsonl").exists() and list(folder.glob("out.parts/part-00000.jsonl"))
    assert run(folder).complete and contents(folder, "out") == contents(folder, "whole")


# Parts


@pytest.mark.parametrize("content", [b"", b"\n", b"a", b"a\n", b"\n\na\n\nbb\nccc", b"a" * 50 + b"\n" + b"b\n" * 9])
@pytest.mark.parametrize("part_bytes", [1, 2, 3, 7, 60])
def test_parts_are_whole_lines(
    tmp_path: Path, content: bytes, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").write_bytes(content)
    for block in (1, 2, 5, 100):
        monkeypatch.setattr("bart_eqx.batch.parts._BLOCK", block)
        scan = Scan(tmp_path / "in", part_bytes)
        parts = list(scan.parts())
        assert scan.size == len(content) and [part.index for part in parts] == list(range(len(parts)))
        lines = [line for part in parts for line in read_part(tmp_path / "in", part)]
        assert lines == list(enumerate(content.splitlines(keepends=True), 1))
        sizes = [part.end - part.start for part in parts]
        assert all(size >= part_bytes for size in sizes[:-1])
        for part in parts:  # without its last line, it would be too small
            assert sum(len(line) for _, line in read_part(tmp_path / "in", part)[:-1]) < part_bytes


def test_a_line_that_is_too_long_fails_alone_and_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("parts", "lines", "stream"):
        monkeypatch.setattr(f"bart_eqx.batch.{module}.MAX_LINE", 100)
    (tmp_path / "in.jsonl").write_bytes(b"x" * 100 + b"\n" + b"y" * 1000 + b"\nlast\n")
    report = run(tmp_path, format=RecordFormat("text"))
    assert (report.records, report.failed) == (2, 1) and MAX_LINE == 2**26
    assert contents(tmp_path, "out")[1] == b'{"id": 2, "error": "line 2: it has more than 100 bytes"}\n'
    out, failures = io.BytesIO(), list[bytes]()
    with (tmp_path / "in.jsonl").open("rb") as file:
        run_stream(batch_task.load(), file, out, format=RecordFormat("text"), on_failure=failures.append)
    assert (out.getvalue(), b"".join(failures)) == contents(tmp_path, "out")


def test_an_empty_input(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"")
    report = run(tmp_path, load=never)
    assert report.complete and report.parts == 0 and (tmp_path / "out.jsonl").read_bytes() == b""
    assert not (tmp_path / "out.failures.jsonl").exists()


# One output, in pieces


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards(folder: Path, order: Sequence[int]) -> None:
    reports = [run(folder, shard=(index, 3)) for index in order]
    assert [report.complete for report in reports] == [False, False, True]
    assert sum(report.computed for report in reports) == reports[0].parts
    assert contents(folder, "out") == contents(folder, "whole")
    assert {path.name for path in (folder / "out.parts").iterdir() if not path.name.endswith("lock")} == {
        "manifest.json",
        "parts.jsonl",
        "done.json",
    }


def test_nothing_is_joined_while_a_part_is_missing(folder: Path) -> None:
    parts = run(folder, shard=(0, 1000)).parts
    assert not any(run(folder, shard=(index, parts)).complete for index in range(1, parts - 1))
    assert run(folder, shard=(parts - 1, parts)).complete and contents(folder, "out") == contents(folder, "whole")


def test_failures_of_a_part_that_was_killed_do_not_stay(folder: Path) -> None:
    """If the machine is another, perhaps what failed there does not fail here."""
    started(folder)
    (folder / "out.parts/part-00003.failures.jsonl").write_text("{}\n")
    assert run(folder).complete and contents(folder, "out") == contents(folder, "whole")


def test_a_run_without_shards_takes_over_what_shards_left(folder: Path) -> None:
    computed = run(folder, shard=(1, 3)).computed
    report = run(folder)
    assert report.complete and report.computed == report.parts - computed
    assert contents(folder, "out") == contents(folder, "whole")


@pytest.mark.parametrize("shard", [(3, 3), (-1, 3), (0, 0)])
def test_a_shard_that_does_not_exist(folder: Path, shard: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="k/n with k from 0 to n - 1"):
        run(folder, shard=shard)


def test_a_finished_output_is_not_computed_again(folder: Path) -> None:
    written = lambda: ((stat := (folder / "whole.jsonl").stat()).st_ino, stat.st_mtime_ns)
    before = written()
    report = run(folder, "whole.jsonl", never)
    assert report.complete and report.computed == 0 and (report.records, report.failed) == (299, 3)
    assert report.failures == folder / "whole.failures.jsonl"
    assert written() == before
    assert run(folder, "whole.jsonl", never, overwrite=True).computed == 0  # it is this run's own


def started(folder: Path) -> None:
    """An output of which one part is computed."""
    assert run(folder, shard=(0, 100)).computed == 1


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (dict(identity=IDENTITY | {"model": "other"}), 'identity.model was "reverse", and is "other"'),
        (dict(identity=IDENTITY | {"options": {"beams": 5}}), "identity.options.beams was 4, and is 5"),
        (dict(identity=IDENTITY | {"options": {}}), "identity.options.beams was 4, and is null"),
        (dict(part_bytes=4096), "part_bytes was 8192, and is 4096"),
        (dict(format=dataclasses.replace(FORMAT, id_field="id")), 'records.id_field was null, and is "id"'),
    ],
)
def test_another_request_is_refused(folder: Path, options: dict[str, Any], difference: str, finished: bool) -> None:
    run(folder) if finished else started(folder)
    with pytest.raises(ManifestMismatchError, match=re.escape(difference)):
        run(folder, load=never, **options)
    assert run(folder).complete and contents(folder, "out") == contents(folder, "whole")
    report = run(folder, **options, overwrite=True)
    assert report.complete and report.computed == report.parts


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda content: content + b"{}\n", r"input.size was \d+, and is \d+"),
        (lambda content: content.replace(b"text 298 ", b"text 998 "), "input.blake3 was"),
    ],
)
def test_another_input_is_refused(
    folder: Path, change: Callable[[bytes], bytes], difference: str, finished: bool
) -> None:
    run(folder) if finished else started(folder)
    content, modified = (folder / "in.jsonl").read_bytes(), (folder / "in.jsonl").stat().st_mtime_ns
    (folder / "in.jsonl").write_bytes(change(content))
    os.utime(folder / "in.jsonl", ns=(modified, modified))  # as if it was changed between two ticks of the clock
    with pytest.raises(ManifestMismatchError, match=difference):
        run(folder, load=never)
    (folder / "in.jsonl").write_bytes(content)
    assert run(folder).complete and contents(folder, "out") == contents(folder, "whole")


def test_an_input_that_has_rested_is_not_hashed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only as long as its time is the same; and the parts that are read are compared in any case."""
    os.utime(folder / "in.jsonl", (1, 1))
    started(folder)
    content = (folder / "in.jsonl").read_bytes()
    (folder / "in.jsonl").write_bytes(content.replace(b"text 298 ", b"text 998 "))
    with pytest.raises(ManifestMismatchError, match="input.blake3 was"):
        run(folder, load=never)
    os.utime(folder / "in.jsonl", (1, 1))
    with pytest.raises(InputError, match="was changed since its parts were cut"):
        run(folder)
    (folder / "in.jsonl").write_bytes(content)
    os.utime(folder / "in.jsonl", (1, 1))
    monkeypatch.setattr("bart_eqx.batch.manifest.hash_input", never)
    assert run(folder).complete and contents(folder, "out") == contents(folder, "whole")


def test_an_input_that_grows_while_it_is_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([(1, 1), (2, 2)])
    monkeypatch.setattr("bart_eqx.batch.manifest.file_size", lambda path: next(sizes))
    with pytest.raises(InputError, match="was changed while it was read"):
        run(folder)


def test_nothing_is_lost_where_no_part_is_computed(folder: Path) -> None:
    """A run that was refused by its task, for an option, can be started with another one."""
    with pytest.raises(AssertionError):
        run(folder, load=never, identity={})
    assert run(folder).complete and contents(folder, "out") == contents(folder, "whole")


def test_an_output_that_is_not_ours_is_refused(folder: Path) -> None:
    (folder / "out.jsonl").write_text("precious")
    with pytest.raises(OutputError, match=r"out.jsonl exists: choose another name"):
        run(folder, load=never)
    assert (folder / "out.jsonl").read_text() == "precious"
    assert run(folder, overwrite=True).complete and contents(folder, "out") == contents(folder, "whole")


@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_text("changed")])
def test_a_finished_output_that_was_changed_is_refused(folder: Path, change: Callable[[Path], object]) -> None:
    run(folder)
    change(folder / "out.jsonl")
    with pytest.raises(ManifestMismatchError, match=r"out.jsonl was finished, and"):
        run(folder, load=never)
    assert run(folder, overwrite=True).complete and contents(folder, "out") == contents(folder, "whole")


def test_failures_of_an_earlier_output_do_not_stay(folder: Path) -> None:
    run(folder)
    (folder / "in.jsonl").write_text('{"text": "a"}\n')
    assert run(folder, overwrite=True).failures is None and not (folder / "out.failures.jsonl").exists()


@pytest.mark.parametrize(
    ("input", "output", "error", "message"),
    [
        ("missing", "out", InputError, "missing cannot be read (No such file"),
        (".", "out", InputError, "is not a regular file"),
        ("in.jsonl", "in.jsonl", OutputError, "in.jsonl is the input"),
        ("in.jsonl", ".", OutputError, "is a folder"),
        ("in.jsonl", "in.jsonl/out", OutputError, "cannot be created"),
    ],
)
def test_paths_that_cannot_be(folder: Path, input: str, output: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        run_file(never, folder / input, folder / output, format=FORMAT, identity={})


def test_a_damaged_manifest(folder: Path) -> None:
    started(folder)
    (folder / "out.parts/manifest.json").write_text("{")
    with pytest.raises(ManifestMismatchError, match="is damaged, or of another version of bart_eqx"):
        run(folder)


# Several processes. A lock belongs to an open file, so that one process can stand for several.


def nested(folder: Path, **options: Any) -> Callable[[], Run]:
    """A task that starts a second run while the first holds its lock."""

    def load() -> Run:
        run(folder, **options)
        return batch_task.load()

    return load


@pytest.mark.parametrize("outer, inner", [(None, None), (None, (0, 2)), ((0, 2), None), ((0, 2), (0, 2))])
def test_a_second_run_is_refused(folder: Path, outer: tuple[int, int] | None, inner: tuple[int, int] | None) -> None:
    with pytest.raises(OutputLockedError, match="by another process"):
        run(folder, load=nested(folder, shard=inner), shard=outer)
    assert run(folder).complete and contents(folder, "out") == contents(folder, "whole")


def test_shards_at_once(folder: Path) -> None:
    report = run(folder, load=nested(folder, shard=(1, 2)), shard=(0, 2))
    assert report.complete and report.computed < report.parts
    assert contents(folder, "out") == contents(folder, "whole")


def test_a_shard_that_ends_does_not_refuse_one_that_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds all locks for a moment, to remove what was half written."""
    remove = Output._remove
    starting: list[threading.Thread] = []
    reports: list[Report] = []

    def slowly(output: Output, pattern: str) -> None:
        remove(output, pattern)
        if pattern.endswith(".partial") and not starting:
            starting.append(threading.Thread(target=lambda: reports.append(run(folder, shard=(1, 2)))))
            starting[0].start()
            time.sleep(0.2)

    monkeypatch.setattr(Output, "_remove", slowly)
    run(folder, shard=(0, 2))
    starting[0].join()
    assert reports[0].complete and contents(folder, "out") == contents(folder, "whole")


def test_a_shard_does_not_clear_what_another_one_computes(folder: Path) -> None:
    with pytest.raises(OutputLockedError, match=r"by other shards, differently: identity.model was .*"):
        run(folder, load=nested(folder, shard=(1, 2), identity={}, overwrite=True), shard=(0, 2))
    run(folder, shard=(0, 2), identity={}, overwrite=True)
    assert not run(folder, shard=(0, 2), overwrite=True).complete
    assert run(folder, shard=(1, 2), overwrite=True).complete
    assert contents(folder, "out") == contents(folder, "whole")


def test_a_file_system_without_locks(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(descriptor: int, flags: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    (folder / "out.parts").mkdir()
    (folder / "out.parts/another.partial").touch()
    with caplog.at_level(logging.WARNING):
        assert run(folder).complete
    assert "This file system has no locks" in caplog.text and contents(folder, "out") == contents(folder, "whole")
    assert (folder / "out.parts/another.partial").exists()  # it may be what another process writes


def test_identity(tmp_path: Path) -> None:
    identity = checkpoint_identity("demo")
    assert set(identity) == {"config.json", "flax_model.msgpack", "generation_config.json", "tokenizer.json"}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in identity.values())
    assert {"jax", "numpy", "tokenizers"} <= set(versions())
