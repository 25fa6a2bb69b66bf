"""Dialects: the clients of OpenAI and of Anthropic ask one engine, whatever its provider speaks, and share its answers.

Run: python examples/python/dialects.py (needs the packages openai, anthropic and uvicorn). The provider here is an echo server
that speaks chat completions; `kind` may as well be "anthropic" or "responses".
"""

import contextlib
import threading
import time
from collections.abc import Iterator

import anthropic
import echo_provider
import openai
import uvicorn
from sophia import Sophia


@contextlib.contextmanager
def serving(s: Sophia) -> Iterator[str]:
    """Serves the engine on a free port while the block runs."""
    server = uvicorn.Server(uvicorn.Config(s.asgi(), host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def main(base_url: str, served: echo_provider.Served) -> None:
    provider = {"name": "echo", "kind": "openai", "base_url": base_url, "models": [echo_provider.MODEL]}
    with Sophia({"chat": {"providers": [provider]}}) as s, serving(s) as base:
        chat = openai.OpenAI(base_url=f"{base}/v1", api_key="none")
        claude = anthropic.Anthropic(base_url=base, api_key="none")

        answer = chat.chat.completions.create(model="echo", messages=[{"role": "user", "content": "What is our churn?"}])
        print("chat completions:", answer.choices[0].message.content)

        # The same question in other words of other protocols: one call, one entry.
        print("responses:       ", chat.responses.create(model="echo", input="What is our churn?").output_text)
        with chat.responses.stream(model="echo", input="What is our churn?") as events:
            final = events.get_final_response()
        print("streamed:        ", final.output_text)
        assert served.calls == 1

        with claude.messages.stream(
            model="echo", max_tokens=100, messages=[{"role": "user", "content": "And in numbers?"}]
        ) as stream:
            print("messages:        ", "".join(stream.text_stream))
        assert served.calls == 2

        # What the provider's protocol cannot say is refused by name, not dropped.
        try:
            claude.messages.create(
                model="echo",
                max_tokens=2000,
                thinking={"type": "enabled", "budget_tokens": 1024},
                messages=[{"role": "user", "content": "Think."}],
            )
        except anthropic.BadRequestError as error:
            print("refused:         ", error.message)
        assert served.calls == 2


if __name__ == "__main__":
    with echo_provider.running() as (base_url, served):
        main(base_url, served)
