"""Checks of public functions' arguments whose errors are one sentence.

jaxtyping's own report prints every argument; with a model among them it is pages long.
"""

import difflib
import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np
from beartype.door import is_bearable
from jaxtyping import AbstractArray, TypeCheckError, config as jaxtyping_config, jaxtyped

from ..lazy_beartype import CONF
from ..migration import ARGUMENTS
from ..typing import Array


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_KINDS = {"Integer": "integers", "Mask": "booleans or integers", "Float": "floats"}
_IN_WORDS = {
    "BaseModelOutput": "what `encode` returns",
    "DecoderCache": "a cache from `init_cache`, or from the last call",
    "GenerationConfig": "a GenerationConfig",
    "bool": "True or False",
    "int": "an integer",
    "float": "a number",
}


def one_sentence_errors(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """Check a call of a public function against its annotations, in place of jaxtyping.

    Raises:
        TypeError: if an argument is missing or not known; and `jaxtyping.TypeCheckError`, which is one, if an argument
            has another type, dtype or shape than its annotation.
    """
    signature = inspect.signature(function)
    setattr(function, "__no_type_check__", True)  # noqa: B010

    @functools.wraps(function)
    def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise TypeError(_call_problem(function, signature, args, kwargs, str(error))) from None
        if not jaxtyping_config.jaxtyping_disable:
            with jaxtyped("context"):  # in which the axes of all arguments have one size
                for name, value in given.items():
                    annotation = signature.parameters[name].annotation
                    if annotation is inspect.Parameter.empty or name == "self":
                        continue
                    if not is_bearable(value, annotation, conf=CONF):
                        raise TypeCheckError(_argument_problem(name, annotation, given))
        return function(*args, **kwargs)

    return checked


def _call_problem(
    function: Callable[..., Any], signature: inspect.Signature, args: Any, kwargs: Mapping[str, Any], problem: str
) -> str:
    parameters = [name for name in signature.parameters if name != "self"]
    name = function.__name__
    if "self" in signature.parameters and args:
        owner = type(args[0]).__name__
        name = owner if name in ("__call__", "__init__") else f"{owner}.{name}"
    for keyword in kwargs:
        if keyword in parameters:
            continue
        if keyword in ARGUMENTS:
            return f"`{keyword}` is an argument of transformers. Here, {ARGUMENTS[keyword]}."
        near = difflib.get_close_matches(keyword, parameters, 1)
        known = f"Is it `{near[0]}`?" if near else f"It has {', '.join(parameters)}."
        return f"`{name}` has no argument `{keyword:.80}`. {known}"
    if "too many positional" in problem:  # which in transformers often come in another order
        by_name = {n for n, parameter in signature.parameters.items() if parameter.kind == parameter.KEYWORD_ONLY}
        positional, named = (", ".join(f"`{n}`" for n in parameters if (n in by_name) == b) for b in (False, True))
        return f"`{name}` takes by position only {positional}, and by name {named}."
    return f"`{name}`: {problem}. Its arguments are {', '.join(parameters)}."


def _argument_problem(name: str, annotation: Any, given: Mapping[str, Any]) -> str:
    value = given[name]
    message = f"`{name}` must be {_wanted(annotation)}. Got {described(value)}"
    if not _array_types(annotation):
        return f"{message}."
    if isinstance(value, str) or (isinstance(value, (list, tuple)) and any(isinstance(item, str) for item in value)):
        return f"{message}: tokenise it first."
    if isinstance(value, (list, tuple)):
        return f"{message}: numpy.asarray converts it."
    if isinstance(value, Mapping):
        return f"{message}: give its fields, as in model(**batch)."
    others = {other: x for other, x in given.items() if other != name and isinstance(x, (Array, np.ndarray))}
    if others and isinstance(value, (Array, np.ndarray)):
        message += ", with " + ", ".join(f"`{other}` {described(x)}" for other, x in others.items())
    return f"{message}."


def described(value: Any) -> str:
    """The dtype and the shape of an array, or the type of any other value."""
    if isinstance(value, (Array, np.ndarray)):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__


def _alternatives(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [part for option in get_args(annotation) for part in _alternatives(option)]
    return [annotation]


def _array_types(annotation: Any) -> list[Any]:
    """The jaxtyping classes among the alternatives of an annotation."""
    parts = _alternatives(annotation)
    return [part for part in parts if isinstance(part, type) and issubclass(part, AbstractArray)]


def _wanted(annotation: Any) -> str:
    """The annotation in words."""
    arrays = _array_types(annotation)
    kinds: list[str] = list(dict.fromkeys(part.dtype.__name__ for part in arrays))
    if "Key" in kinds:
        return "a JAX key, as from jax.random.key(0)"
    if arrays:
        shapes = dict.fromkeys(f"[{part.dim_str.strip()}]" for part in arrays)
        return f"an array of {' or '.join(_KINDS.get(kind, kind) for kind in kinds)} {' or '.join(shapes)}"
    names: list[str] = [getattr(part, "__name__", str(part)) for part in _alternatives(annotation) if part is not None]
    names = [name for name in names if name != "NoneType"]
    return " or ".join(_IN_WORDS.get(name, f"a {name}") for name in names)
