"""Functions of Python as tools of a model: what a model is told of them, and how they are called."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal

from .errors import InvalidInputError

Tool = Mapping[str, Any] | Callable[..., Any] | Literal["registry"]
"""A tool as the provider takes it, a function to be called when the model asks for it, or all tools of the registry."""

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def split(tools: Sequence[Tool] | str | None) -> tuple[list[Any] | None, list[Callable[..., Any]]]:
    """Parts what the engine is told as it is from functions."""
    if tools is None:
        return None, []
    if isinstance(tools, Mapping) or not isinstance(tools, Iterable):
        raise _refused(f"must be a list of tools, or \"registry\", not a value of type `{type(tools).__name__}`")
    given = [tools] if isinstance(tools, str) else list(tools)
    functions = [tool for tool in given if callable(tool)]
    return [tool for tool in given if not callable(tool)] or None, functions


def _unfixed(function: Callable[..., Any]) -> tuple[Callable[..., Any], set[str]]:
    """Returns what a `functools.partial` was made of, and the names of the arguments that it has fixed."""
    fixed: set[str] = set()
    while isinstance(function, functools.partial):
        fixed |= function.keywords.keys()
        function = function.func
    return function, fixed


def _name(function: Callable[..., Any]) -> str:
    own, _ = _unfixed(function)
    name: str = getattr(own, "__name__", type(own).__name__)
    if name == "<lambda>":
        raise _refused("holds a lambda, which has no name that a model could call: write it with `def`")
    return name


def _refused(problem: str) -> InvalidInputError:
    return InvalidInputError(f"chat.complete: `tools` {problem}", operation="chat.complete", context={"field": "tools"})


def definition(function: Callable[..., Any]) -> dict[str, Any]:
    """Describes a function in the form of OpenAI's `tools`: its docstring, and a JSON Schema of its parameters."""
    name, (own, fixed) = _name(function), _unfixed(function)
    hints = typing.get_type_hints(own if hasattr(own, "__name__") else type(own).__call__)
    properties: dict[str, Any] = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in fixed:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"tool {name!r}: parameter {parameter.name!r} must be one that can be named")
        properties[parameter.name] = _schema(hints.get(parameter.name, Any))
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters = {"type": "object", "properties": properties, "required": required}
    described = {"name": name, "description": inspect.getdoc(own) or "", "parameters": parameters}
    return {"type": "function", "function": described}


def answering(functions: Sequence[Callable[..., Any]]) -> Callable[[str], Any]:
    """Returns the one function that the engine calls for all of them, with `{tool, arguments, scope}` as JSON text."""
    named = {_name(function): function for function in functions}

    async def answer(text: str) -> Any:
        asked = json.loads(text)
        function = named[asked["tool"]]
        if taken := _unfixed(function)[1] & asked["arguments"].keys():
            raise TypeError(f"tool {asked['tool']!r}: {min(taken)!r} is not the model's to say")
        value = function(**asked["arguments"])
        return await value if inspect.isawaitable(value) else value

    return answer


def _schema(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _NAMES:
        return {"type": _NAMES[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, UnionType):
        return {"anyOf": [_schema(argument) for argument in arguments]}
    if (origin or hint) in (list, tuple, set, Sequence):
        return {"type": "array", "items": _schema(arguments[0])} if arguments else {"type": "array"}
    if (origin or hint) in (dict, Mapping):
        return {"type": "object"}
    return {}
