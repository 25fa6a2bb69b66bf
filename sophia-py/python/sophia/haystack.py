"""Haystack on Sophia: a document store and a retriever. `pip install 'sophia-ai[haystack]'`.

>>> from haystack import Document
>>> from sophia import Scope, Sophia
>>> from sophia.haystack import SophiaDocumentStore
>>> store = SophiaDocumentStore(Sophia(), scope=Scope(user="ada"))
>>> store.write_documents([Document(content="Ada drinks green tea."), Document(content="Her bicycle is broken.")])
2
>>> store.search("which beverage does she like?", top_k=1)[0].content
'Ada drinks green tea.'
"""

from __future__ import annotations

try:
    from haystack import component
except ImportError as error:
    from ._adapters import missing

    raise missing("haystack", "Haystack", error) from error

from ._haystack_store import SophiaDocumentStore, SophiaRetriever

__all__ = ["SophiaDocumentStore", "SophiaRetriever"]

del component
