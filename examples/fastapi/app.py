"""Notes that answer questions: Sophia inside a FastAPI backend.

Run: uvicorn --app-dir examples/fastapi app:app, with several --workers if wanted: they share the directory.
A model is asked where OPENAI_BASE_URL or OPENAI_API_KEY is set; `make demo` brings one along.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from sophia import Scope, Sophia

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
# As many as the smallest model can keep apart; a larger one gains from more.
NOTES_IN_QUESTION = 1
PROVIDER = {
    "name": "openai",
    "kind": "openai",
    "base_url": os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1"),
    "api_key": os.environ.get("OPENAI_API_KEY", "none"),
    "models": [MODEL],
}

# Built at import, with no event loop; files and connections are opened by `start()`.
sophia = Sophia(data_dir=os.environ.get("SOPHIA_DATA_DIR", "./data"), chat={"providers": [PROVIDER]})


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with sophia:
        if servers := os.environ.get("MCP_CONFIG"):
            await sophia.registry.load(servers)
        yield


app = FastAPI(title="Notes", lifespan=lifespan)


class Note(BaseModel):
    text: str
    user: str


class Question(BaseModel):
    question: str
    user: str


@app.post("/notes")
async def add_note(note: Note) -> dict[str, str]:
    stored = await sophia.memory.store(note.text, scope=Scope(user=note.user))
    return {"id": stored.id}


@app.get("/notes")
async def find_notes(q: str, user: str, limit: int = 3) -> list[dict[str, Any]]:
    found = await sophia.memory.search(q, scope=Scope(user=user), limit=limit)
    return [{"text": hit.record.content, "score": hit.score} for hit in found.hits]


@app.post("/ask")
async def ask(question: Question) -> dict[str, Any]:
    scope = Scope(user=question.user)
    found = await sophia.memory.search(question.question, scope=scope, limit=NOTES_IN_QUESTION)
    notes = "\n".join(hit.record.content for hit in found.hits)
    messages = [
        {"role": "system", "content": "Answer the question from the notes, in a few words."},
        {"role": "user", "content": f"Notes:\n{notes}\n\nQuestion: {question.question}"},
    ]
    answer = await sophia.chat.complete(messages, model=MODEL, scope=scope, temperature=0, max_tokens=60)
    return {"answer": answer.text, "model": answer.model, "cache": answer.cache.status, "latency_ms": answer.latency_ms}


# Everything else: unified health, chat in the OpenAI dialect, memory, MCP tools, metrics, WebSockets.
app.mount("/", sophia.asgi())
