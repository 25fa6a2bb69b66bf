"""A checkpoint of LangGraph that is decoded when it is first looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self, cast

from langgraph.checkpoint.base import Checkpoint, CheckpointTuple

__all__ = ["StoredTuple"]

CHECKPOINT = CheckpointTuple._fields.index("checkpoint")


class StoredTuple(CheckpointTuple):
    """A `CheckpointTuple` whose `checkpoint` stays bytes until somebody asks for it.

    Decoding costs as much as the state is long. Who pages through a history for its metadata, or asks whether a thread is
    there, does not pay for it. What is given out is a plain dict, as any other saver's.
    """

    _read: Callable[[], Checkpoint] | None
    _checkpoint: Checkpoint

    @classmethod
    def reading(cls, read: Callable[[], Checkpoint], **fields: Any) -> Self:
        """Makes a tuple whose `checkpoint` is what `read` returns, once."""
        # What stands in the tuple itself is never shown.
        made = cls(checkpoint={}, **fields)  # type: ignore[typeddict-item]
        made._read = read
        return made

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, whole."""
        if (read := self.__dict__.get("_read")) is not None:
            self._checkpoint = read()
            self._read = None
        elif "_checkpoint" not in self.__dict__:
            # Made by `_replace`, of values that are all there.
            self._checkpoint = cast(Checkpoint, super().__getitem__(CHECKPOINT))
        return self._checkpoint

    def __iter__(self) -> Iterator[Any]:
        for place, value in enumerate(super().__iter__()):
            yield self.checkpoint if place == CHECKPOINT else value

    def __getitem__(self, place: Any) -> Any:
        return tuple(self)[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and tuple(self) == tuple(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(CheckpointTuple(*self))

    def __reduce__(self) -> Any:
        return CheckpointTuple, tuple(self)
