"""The chat history of LangChain on Sophia's conversations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict

from ._adapters import Steps, call, run, run_sync
from ._engine import Sophia
from .errors import SophiaError
from .scope import Scope
from .types import Record

__all__ = ["SophiaChatMessageHistory"]

PAGE = 1_000
"""Messages that one call of the engine reads."""
ROLES = {"human": "user", "ai": "assistant"}
WITHOUT_TEXT = "(no text)"
"""Stands for the text of a message that has none, such as a call of a tool."""
FIELD = "langchain"
"""The name in the metadata under which the whole message is kept."""


class SophiaChatMessageHistory(BaseChatMessageHistory):
    """The messages of one conversation, each found by `memory.search` and `memory.history`, too.

    `scope` names the conversation by its session.
    """

    def __init__(self, sophia: Sophia, scope: Scope) -> None:
        if scope.session is None:
            raise ValueError("`scope.session` must name the conversation")
        self._engine = sophia._engine
        self._memory = sophia.memory
        self._scope = scope

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """All messages, in the order in which they were added."""
        return run_sync(self._engine, self._read())

    async def aget_messages(self) -> list[BaseMessage]:
        """Returns all messages, in the order in which they were added."""
        return await run(self._engine, self._read())

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Adds messages, all or none."""
        run_sync(self._engine, self._add(messages))

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Adds messages, all or none."""
        await run(self._engine, self._add(messages))

    def clear(self) -> None:
        """Removes the messages for good."""
        self._memory.delete_where_sync(scope=self._scope, kinds=["message"], permanent=True)

    async def aclear(self) -> None:
        """Removes the messages for good."""
        await self._memory.delete_where(scope=self._scope, kinds=["message"], permanent=True)

    def _read(self) -> Steps[list[BaseMessage]]:
        pages: list[list[Record]] = []
        before: int | None = None
        while True:
            page = yield from call(self._memory._history(self._scope, limit=PAGE, before=before))
            pages.insert(0, page)
            if len(page) < PAGE:
                break
            before = page[0].seq
        return [_message(record) for page in pages for record in page]

    def _add(self, messages: Sequence[BaseMessage]) -> Steps[None]:
        added: list[Record] = []
        try:
            for message in messages:
                text = message.text.strip() or WITHOUT_TEXT
                facts = {FIELD: message_to_dict(message)}
                role = ROLES.get(message.type, message.type)
                added.append((yield from call(self._memory._append(self._scope, role, text, metadata=facts))))
        except SophiaError:
            for record in added:
                yield from call(self._memory._delete(record.id, scope=self._scope, permanent=True))
            raise


def _message(record: Record) -> BaseMessage:
    kept: dict[str, Any] | None = record.metadata.get(FIELD)
    if kept is None:
        # Said through `memory.append`, not through LangChain.
        kind = {role: kind for kind, role in ROLES.items()}.get(record.role or "", "chat")
        kept = {"type": kind, "data": {"content": record.content, "role": record.role}}
    return messages_from_dict([kept])[0]
