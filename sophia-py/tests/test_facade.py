"""The facade and the engine say the same: every operation is a method, every argument a parameter, every result a type."""

from __future__ import annotations

import inspect
import subprocess
import sys
from keyword import iskeyword
from pathlib import Path
from typing import Any

import pytest

from sophia import Sophia
from sophia._sophia import operations

ROOT = Path(__file__).parents[2]
OPERATIONS = {operation["name"]: operation for operation in operations()}
# Arguments that the facade has under another name: the first of a chat request, and what is given as an object.
RENAMED = {
    "chat": {"prompt": "messages", "messages": "messages", "provider_fields": "provider_fields", "message": "message"},
    "registry.register": {"server": "server"},
    "health.register": {"probe": "probe"},
}


def method(name: str) -> Any:
    target: Any = Sophia()
    for part in name.split("."):
        # `import` is a word of the language.
        target = getattr(target, f"{part}_" if iskeyword(part) else part)
    return target


def properties(schema: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    return set(schema.get("properties", {}))


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_is_a_documented_method_with_its_arguments(name: str) -> None:
    call = method(name)
    assert call.__doc__ and call.__doc__.strip()
    renamed = RENAMED.get(name, RENAMED.get(name.partition(".")[0], {}))
    wanted = {renamed.get(argument, argument) for argument in properties(OPERATIONS[name]["arguments"])}
    missing = wanted - set(inspect.signature(call).parameters)
    assert not missing, f"{name} lacks {sorted(missing)}"


def test_the_result_types_are_those_of_the_engine() -> None:
    command = [sys.executable, str(ROOT / "scripts/generate_types.py"), "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
