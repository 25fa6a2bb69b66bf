"""LangGraph on Sophia: a checkpointer and a store. `pip install 'sophia-ai[langgraph]'`.

>>> from sophia import Scope, Sophia
>>> from sophia.langgraph import SophiaSaver, SophiaStore
>>> s = Sophia()
>>> saver = SophiaSaver(s, scope=Scope(user="ada"))
>>> store = SophiaStore(s, scope=Scope(user="ada"))
>>> store.put(("memories",), "tea", {"text": "Ada drinks green tea."})
>>> store.search(("memories",), query="what does she drink?")[0].key
'tea'

`graph = builder.compile(checkpointer=saver, store=store)` does the rest.
"""

from __future__ import annotations

try:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.store.base import BaseStore
except ImportError as error:
    from ._adapters import missing

    raise missing("langgraph", "LangGraph", error) from error

from ._langgraph_saver import SophiaSaver
from ._langgraph_store import SophiaStore

__all__ = ["SophiaSaver", "SophiaStore"]

assert issubclass(SophiaSaver, BaseCheckpointSaver) and issubclass(SophiaStore, BaseStore)
