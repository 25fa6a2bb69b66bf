"""Functions as tools: what a model is told of them."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from sophia._tools import definition, split


def look_up(
    name: str, limit: int = 10, tags: list[str] | None = None, how: Literal["exact", "near"] = "near", more: Any = None
) -> str:
    """Looks a name up.

    In the directory.
    """
    return f"{name}{limit}{tags}{how}{more}"


def test_a_function_is_described_by_its_signature_and_its_docstring() -> None:
    described = definition(look_up)["function"]
    assert (described["name"], described["description"]) == ("look_up", "Looks a name up.\n\nIn the directory.")
    assert described["parameters"]["required"] == ["name"]
    assert described["parameters"]["properties"] == {
        "name": {"type": "string"},
        "limit": {"type": "integer"},
        "tags": {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "how": {"enum": ["exact", "near"]},
        "more": {},
    }


def test_a_parameter_without_a_name_for_the_model_is_refused() -> None:
    def any_of_them(*names: str) -> str:
        return "".join(names)

    with pytest.raises(TypeError, match="'any_of_them': parameter 'names'"):
        definition(any_of_them)


def test_tools_are_parted_from_functions() -> None:
    own = {"type": "function", "function": {"name": "own"}}
    assert split(None) == (None, {})
    assert split("registry") == (["registry"], {})
    assert split([own, look_up, "registry"]) == ([own, "registry"], {"look_up": look_up})
    assert split([look_up]) == (None, {"look_up": look_up})
