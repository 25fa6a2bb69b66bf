"""LangGraph on Sophia: a graph that goes on where it stopped, and remembers across its threads.

Run: pip install '.[langgraph]' langgraph, and then python examples/python/langgraph_chat.py
"""

import tempfile
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.store.base import BaseStore

from sophia import Scope, Sophia
from sophia.langgraph import SophiaSaver, SophiaStore


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]


def answer(state: State, *, store: BaseStore) -> dict[str, Any]:
    """Stands for a model: it repeats what is known about the question."""
    question = state["messages"][-1].content
    store.put(("said",), question, {"text": question})
    known = store.search(("said",), query=question, limit=2)
    return {"messages": [("ai", " | ".join(item.key for item in known))]}


def owner(config: Any) -> Scope:
    """One graph for all users: each has the threads of a scope of their own."""
    return Scope(tenant="acme", user=config.get("configurable", {}).get("user_id", "nobody"))


def main(directory: str) -> None:
    with Sophia(data_dir=directory) as s:
        builder = StateGraph(State)
        builder.add_node("answer", answer)
        builder.add_edge(START, "answer")
        builder.add_edge("answer", END)
        saver, store = SophiaSaver(s, scope=owner), SophiaStore(s, scope=Scope(tenant="acme"), index={"fields": ["text"]})
        graph = builder.compile(checkpointer=saver, store=store)

        ada: Any = {"configurable": {"thread_id": "1", "user_id": "ada"}}
        bob: Any = {"configurable": {"thread_id": "1", "user_id": "bob"}}
        graph.invoke({"messages": [("user", "I drink green tea.")]}, ada)
        state = graph.invoke({"messages": [("user", "What do I drink?")]}, ada)
        print(f"the thread has {len(state['messages'])} messages, the last: {state['messages'][-1].content!r}")
        assert len(state["messages"]) == 4 and "green tea" in state["messages"][-1].content

        # The same name of a thread, and another user: nothing of it is there.
        assert graph.get_state(bob).values == {}

        # Back to any step, and on from there; then only the last step is kept.
        steps = list(graph.get_state_history(ada))
        first = next(step for step in steps if len(step.values.get("messages", [])) == 2)
        fork = graph.invoke({"messages": [("user", "And what is my name?")]}, first.config)
        assert len(fork["messages"]) == 4
        before = len(list(saver.list(ada)))
        s.memory.checkpoints.prune_sync(["1"], scope=owner(ada))
        print(f"{before} checkpoints were there, {len(list(saver.list(ada)))} is kept")

        receipt = s.memory.forget_sync(subject="ada")
        print(f"forgotten: {receipt.checkpoints} checkpoint")
        assert graph.get_state(ada).values == {}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(directory)
