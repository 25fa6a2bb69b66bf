"""Functions of Python as tools of a model: what a model is told of them, and how they are called."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal

Tool = Mapping[str, Any] | Callable[..., Any] | Literal["registry"]
"""A tool as the provider takes it, a function to be called when the model asks for it, or all tools of the registry."""

_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def split(tools: Sequence[Tool] | str | None) -> tuple[list[Any] | None, dict[str, Callable[..., Any]]]:
    """Parts what the engine is told as it is from functions, by name."""
    given = [tools] if isinstance(tools, str) else tools
    if given is None:
        return None, {}
    functions = {function.__name__: function for function in given if callable(function)}
    return [tool for tool in given if not callable(tool)] or None, functions


def definition(function: Callable[..., Any]) -> dict[str, Any]:
    """Describes a function in the form of OpenAI's `tools`: its docstring, and a JSON Schema of its parameters."""
    hints = typing.get_type_hints(function)
    properties: dict[str, Any] = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise TypeError(f"tool {function.__name__!r}: parameter {parameter.name!r} must be one that can be named")
        properties[parameter.name] = _schema(hints.get(parameter.name, Any))
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters = {"type": "object", "properties": properties, "required": required}
    described = {"name": function.__name__, "description": inspect.getdoc(function) or "", "parameters": parameters}
    return {"type": "function", "function": described}


def answering(functions: Mapping[str, Callable[..., Any]]) -> Callable[[str], Any]:
    """Returns the one function that the engine calls for all of them, with `{tool, arguments, scope}` as JSON text."""

    async def answer(text: str) -> Any:
        asked = json.loads(text)
        value = functions[asked["tool"]](**asked["arguments"])
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
