"""A chat of 200 turns kept by LangGraph: the size of the file, and what reading it back costs, beside its own SqliteSaver.

Run: `pip install '.[langgraph]' langgraph langgraph-checkpoint-sqlite` and then `python benches/python/checkpoints.py`.
Both savers get the same checkpoints, one after the other, from one real graph; reads are in turn. Prints the median, and the
fastest and slowest.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages

from sophia import Sophia
from sophia.langgraph import SophiaSaver

TURNS = 200
BYTES_PER_MESSAGE = 400
"""Two messages a turn: 160 KB of text."""
ROUNDS = 15
CONFIG: Any = {"configurable": {"thread_id": "chat"}}


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]


def words(rng: random.Random, length: int) -> str:
    """Returns text that compresses about as English does: common words often, rare ones seldom."""
    lexicon = [bytes(rng.choices(range(97, 123), k=rng.randint(2, 9))).decode() for _ in range(2_000)]
    weights = [1 / (rank + 1) for rank in range(len(lexicon))]
    text = ""
    while len(text) < length:
        text += " ".join(rng.choices(lexicon, weights, k=20)) + ". "
    return text[:length]


def graph(saver: BaseCheckpointSaver[Any], answers: list[str]) -> Any:
    def answer(state: State) -> dict[str, Any]:
        return {"messages": [("ai", answers[len(state["messages"]) // 2])]}

    builder = StateGraph(State)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    builder.add_edge("answer", END)
    return builder.compile(checkpointer=saver)


def milliseconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def shown(name: str, times: list[float]) -> str:
    return f"{name:34} {statistics.median(times):9.3f} ms   ({min(times):.3f} – {max(times):.3f})"


def read(saver: BaseCheckpointSaver[Any]) -> int:
    found = saver.get_tuple(CONFIG)
    assert found is not None
    return len(found.checkpoint["channel_values"]["messages"])


def size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS)
    turns = parser.parse_args().turns
    rng = random.Random(7)
    asked, answers = ([words(rng, BYTES_PER_MESSAGE) for _ in range(turns)] for _ in range(2))
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "sophia"), Path(folder, "langgraph")
        theirs.mkdir()
        engine = Sophia(data_dir=ours)
        with engine, SqliteSaver.from_conn_string(str(theirs / "checkpoints.db")) as sqlite:
            savers: dict[str, BaseCheckpointSaver[Any]] = {"sophia": SophiaSaver(engine), "langgraph sqlite": sqlite}
            graphs = {name: graph(saver, answers) for name, saver in savers.items()}
            turn: dict[str, list[float]] = {name: [] for name in savers}
            gets: dict[str, dict[int, list[float]]] = {name: {} for name in savers}
            for number, text in enumerate(asked, 1):
                for name, chat in graphs.items():
                    turn[name].append(milliseconds(lambda: chat.invoke({"messages": [("user", text)]}, CONFIG)))
                if number in (turns // 20, turns // 4, turns):
                    for _ in range(ROUNDS):
                        for name, saver in savers.items():
                            gets[name].setdefault(number, []).append(milliseconds(lambda: saver.get_tuple(CONFIG)))
            whole: dict[str, list[float]] = {name: [] for name in savers}
            listed: dict[str, list[float]] = {name: [] for name in savers}
            state: dict[str, list[float]] = {name: [] for name in savers}
            for _ in range(ROUNDS):
                for name, saver in savers.items():
                    whole[name].append(milliseconds(lambda: read(saver)))
            for _ in range(3):
                for name, saver in savers.items():
                    listed[name].append(milliseconds(lambda: list(saver.list(CONFIG))))
            for name, chat in graphs.items():
                state[name].append(milliseconds(lambda: list(chat.get_state_history(CONFIG))))
            for name, saver in savers.items():
                assert read(saver) == 2 * turns, name
        files = {"sophia": size(ours), "langgraph sqlite": size(theirs)}
    for name in savers:
        print(f"{name + ': files':34} {files[name]:9.2f} MB")
    for name in savers:
        print(shown(f"{name}: one turn, first 10", turn[name][:10]))
        print(shown(f"{name}: one turn, last 10", turn[name][-10:]))
    for number in gets["sophia"]:
        for name in savers:
            print(shown(f"{name}: get_tuple at {number} turns", gets[name][number]))
    for name in savers:
        print(shown(f"{name}: get_tuple and messages", whole[name]))
    for name in savers:
        print(shown(f"{name}: list, all", listed[name]))
        print(shown(f"{name}: get_state_history, all", state[name]))


if __name__ == "__main__":
    main()
