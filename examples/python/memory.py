"""Memory: a support desk that remembers its customers. Nothing has to run; it all lives in one directory.

Run: python examples/python/memory.py
"""

import asyncio
import tempfile

from sophia import Scope, Sophia

CUSTOMER = Scope(tenant="acme", user="ada")
SOMEONE_ELSE = Scope(tenant="acme", user="bob")


async def main(directory: str) -> None:
    async with Sophia(data_dir=directory) as s:
        # Kept whole, and found by meaning in the very next call.
        wish = await s.memory.store(
            "Send the quarterly report as a PDF.", scope=CUSTOMER, kind="preference", tags=["report"]
        )
        await s.memory.store("The billing service restarts every few minutes.", scope=CUSTOMER, kind="incident")
        await s.memory.store("The contract is renewed in March.", scope=CUSTOMER, kind="fact")

        found = await s.memory.search("which file format does she want?", scope=CUSTOMER, limit=1)
        best = found.hits[0]
        print(f"found {best.record.content!r} with score {best.score:.2f} in {found.took_ms:.1f} ms")
        assert best.record.id == wish.id

        # A scope is a wall: what one user stored does not exist for another.
        assert (await s.memory.search("report", scope=SOMEONE_ELSE)).hits == []
        assert await s.memory.get(wish.id, scope=SOMEONE_ELSE) is None

        # A change is a new version. `if_version` refuses to overwrite a change that somebody else made meanwhile.
        changed = await s.memory.update(
            wish.id, scope=CUSTOMER, content="Send the quarterly report as a spreadsheet.", if_version=1
        )
        versions = await s.memory.versions(wish.id, scope=CUSTOMER)
        print(f"version {changed.version}: {changed.content!r}; before: {versions[0].content!r}")

        # A conversation keeps its order.
        talk = Scope(tenant="acme", user="ada", session="monday")
        await s.memory.append(talk, "user", "Is the report ready?")
        await s.memory.append(talk, "assistant", "It is in your inbox.")
        for turn in await s.memory.history(talk):
            print(f"  {turn.role}: {turn.content}")

        # Values by key. However many ask at once, the loader runs once.
        loads = 0

        async def load_plan() -> dict[str, str]:
            nonlocal loads
            loads += 1
            await asyncio.sleep(0.05)
            return {"plan": "pro"}

        async def plan() -> dict[str, str]:
            return await s.memory.kv.get_or_set("plan", load_plan, scope=CUSTOMER, ttl=60, tags=["billing"])

        plans = await asyncio.gather(*(plan() for _ in range(100)))
        print(f"{len(plans)} callers, {loads} load")
        assert loads == 1 and plans[0] == {"plan": "pro"}

    # A later process finds it all again.
    async with Sophia(data_dir=directory) as s:
        found = await s.memory.search("spreadsheet", scope=CUSTOMER)
        assert found.hits[0].record.id == wish.id
        health = await s.memory.health()
        print("tiers:", {name: tier.status for name, tier in health.tiers.items()})


with tempfile.TemporaryDirectory() as temporary:
    asyncio.run(main(temporary))
