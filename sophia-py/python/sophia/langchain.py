"""LangChain on Sophia: chat model, vector store, LLM cache, key-value store, chat history. `pip install 'sophia-ai[langchain]'`.

>>> from sophia import Scope, Sophia
>>> from sophia.langchain import SophiaVectorStore
>>> store = SophiaVectorStore(Sophia(), scope=Scope(user="ada"))
>>> ids = store.add_texts(["Ada drinks green tea.", "Her bicycle is broken."])
>>> store.similarity_search("which beverage does she like?", k=1)[0].page_content
'Ada drinks green tea.'
"""

from __future__ import annotations

try:
    import langchain_core
except ImportError as error:
    from ._adapters import missing

    raise missing("langchain", "LangChain", error) from error

from ._langchain_history import SophiaChatMessageHistory
from ._langchain_stores import SophiaByteStore, SophiaCache
from ._langchain_vectors import SophiaVectorStore
from .langchain_chat import ChatSophia

__all__ = ["ChatSophia", "SophiaByteStore", "SophiaCache", "SophiaChatMessageHistory", "SophiaVectorStore"]

del langchain_core
