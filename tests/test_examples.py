"""The files of `examples/`: short, listed with their length, and made of abstract parts only."""

import ast
import importlib
import inspect
import io
import re
import tokenize
from pathlib import Path

import equinox as eqx
import pytest


FOLDER = Path(__file__).parents[1] / "examples"
FILES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("[!_]*.py"))
LIMITS = {"rotary": 39, "alibi": 39, "sliding_window": 39, "long_documents": 39, "grouped_keys": 39, "lora": 30}


def code_lines(source: str) -> int:
    """Lines with code: without blank ones, comments, docstrings and imports."""
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    blank = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in blank:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - left_out)


def test_they_are_short() -> None:
    """And as long as their README says."""
    counted = {name: code_lines((FOLDER / f"{name}.py").read_text()) for name in FILES}
    listed = re.findall(r"^\| `([\w/]+)\.py` \| (\d+) \|", (FOLDER / "README.md").read_text(), flags=re.MULTILINE)
    assert {name: int(lines) for name, lines in listed} == counted
    assert all(lines <= LIMITS.get(name, 79) for name, lines in counted.items())


def test_what_whisper_takes_from_here() -> None:
    """At most 400 lines are Whisper's own, of which the network has half; transformers' modeling_flax_whisper.py has
    1,316, counted alike. Encoder, decoder, layers, attention, cache and loops are imported."""
    counted = {path.stem: code_lines(path.read_text()) for path in (FOLDER / "whisper").glob("*.py")}
    assert sum(counted.values()) <= 400
    assert sum(counted[name] for name in ("convolutions", "model", "conditional_generation")) <= 180
    classes = [
        name
        for path in (FOLDER / "whisper").glob("*.py")
        for name in re.findall(r"^class (\w+)", path.read_text(), re.M)
    ]
    assert not [name for name in classes if re.search("Attention|Layer|Encoder|Decoder|Cache|Embedding|Norm", name)]


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overridden_or_patched(name: str) -> None:
    """Every base is abstract, and no attribute of another object is assigned."""
    module = importlib.import_module(f"examples.{name.replace('/', '.')}")
    for cls in vars(module).values():
        if inspect.isclass(cls) and cls.__module__ == module.__name__:
            assert all(base in (object, eqx.Module) or inspect.isabstract(base) for base in cls.__bases__), cls
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    targets = [t for node in ast.walk(tree) if isinstance(node, ast.Assign) for t in node.targets]
    attributes = [t for target in targets for t in ast.walk(target) if isinstance(t, ast.Attribute)]
    assert all(isinstance(t.value, ast.Name) and t.value.id == "self" for t in attributes)
    assert not re.search(r"\b(setattr|__dict__|patch\()", (FOLDER / f"{name}.py").read_text())
