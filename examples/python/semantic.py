"""Chat's semantic tier: the same question in other words is answered from the cache, and what changes the answer is asked.

Run: python examples/python/semantic.py. It asks an echo server of its own.
"""

import asyncio

import echo_provider
from sophia import Scope, Sophia

ADA = Scope(tenant="acme", user="ada")
QUESTIONS = [
    "How do I reset my router?",
    "Please tell me how I can reset my router.",  # The same: served.
    "How do I reset my 2 routers?",  # A number more: asked.
    "How do I not reset my router?",  # The contrary: asked.
]


async def main(base_url: str, served: echo_provider.Served) -> None:
    provider = {"name": "echo", "base_url": base_url, "models": [echo_provider.MODEL]}
    # "auto" would only report until enough answers agreed; "serve" trusts the threshold until answers speak against it.
    semantic = {"enabled": True, "mode": "serve", "audit": 0}
    async with Sophia({"chat": {"providers": [provider], "semantic": semantic}}) as s:
        for question in QUESTIONS:
            answer = await s.chat.complete(question, scope=ADA, explain=True)
            assert answer.explain is not None
            took = {note.stage: f"{note.outcome} in {note.took_ms:.2f} ms" for note in answer.explain.stages}
            print(f"{answer.cache.status:12} {question:45} semantic: {took['semantic']}")
        assert served.calls == 3
        # A user says that an answer by meaning was wrong: it serves no other question any more.
        answer = await s.chat.complete(QUESTIONS[1], scope=ADA)
        assert answer.cache.key is not None
        assert s.chat.semantic_feedback(answer.cache.key, "wrong", scope=ADA)
        again = await s.chat.complete(QUESTIONS[1], scope=ADA)
        print(f"{again.cache.status:12} {QUESTIONS[1]:45} after “wrong”")
        assert again.cache.status == "miss"
        report = s.chat.semantic_report()
        print(f"served {report.served} of {report.lookups}, ruled out {report.vetoed}")
        assert report.judged == report.wrong == 1


with echo_provider.running() as (url, seen):
    asyncio.run(main(url, seen))
