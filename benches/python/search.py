"""Nearest neighbours by meaning, beside sqlite-vec and Chroma: `pip install . numpy sqlite-vec chromadb`, then
`python benches/python/search.py [ROWS]`. Where Python's own SQLite loads no extensions: `pip install pysqlite3-binary`.

The vectors are made: unit vectors around a thousand centres, 256 dimensions, the same for all. Each store is asked one
question after the other for its ten nearest; recall is against an exact scan.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

with contextlib.suppress(ImportError):
    import pysqlite3 as sqlite3

DIMENSIONS = 256
CENTRES = 1_000
QUERIES = 200
BATCH = 1_000
LIMIT = 10


def vectors(count: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(1).standard_normal((CENTRES, DIMENSIONS))
    random = np.random.default_rng(seed)
    made = centres[random.integers(0, CENTRES, count)] + random.standard_normal((count, DIMENSIONS))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


Ask = Callable[[np.ndarray], Sequence[int]]


def sophia(rows: np.ndarray, directory: str) -> Ask:
    from sophia import Sophia

    memory = Sophia(data_dir=directory).memory
    for first in range(0, len(rows), BATCH):
        items = [
            {"content": f"record {first + row}", "id": str(first + row), "embedding": vector}
            for row, vector in enumerate(rows[first : first + BATCH].tolist())
        ]
        memory.store_many_sync(items)

    def ask(query: np.ndarray) -> list[int]:
        found = memory.search_sync("", embedding=query.tolist(), mode="semantic", limit=LIMIT)
        return [int(hit.record.id) for hit in found.hits]

    return ask


def sqlite_vec(rows: np.ndarray, directory: str) -> Ask:
    import sqlite_vec as extension

    connection = sqlite3.connect(f"{directory}/vec.db")
    connection.enable_load_extension(True)
    extension.load(connection)
    connection.execute(f"CREATE VIRTUAL TABLE v USING vec0 (e float[{DIMENSIONS}] distance_metric=cosine)")
    with connection:
        entries = ((number, row.tobytes()) for number, row in enumerate(rows))
        connection.executemany("INSERT INTO v (rowid, e) VALUES (?, ?)", entries)
    sql = "SELECT rowid FROM v WHERE e MATCH ? AND k = ?"
    return lambda query: [row[0] for row in connection.execute(sql, (query.tobytes(), LIMIT))]


def chroma(rows: np.ndarray, directory: str) -> Ask:
    import chromadb

    client = chromadb.PersistentClient(directory, settings=chromadb.Settings(anonymized_telemetry=False))
    collection = client.create_collection("vectors", metadata={"hnsw:space": "cosine"})
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        collection.add(ids=[str(first + row) for row in range(len(batch))], embeddings=batch)
    return lambda query: [
        int(name) for name in collection.query(query_embeddings=query[None], n_results=LIMIT, include=[])["ids"][0]
    ]


def measure(name: str, make: Callable[[np.ndarray, str], Ask], rows: np.ndarray, queries: np.ndarray) -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        start = time.perf_counter()
        try:
            ask = make(rows, directory)
        except (ImportError, AttributeError, sqlite3.OperationalError) as error:
            print(f"{name:<12} cannot be measured here: {error}")
            return
        made = len(rows) / (time.perf_counter() - start)
        ask(queries[0])
        times, found = [], 0
        for query in queries:
            start = time.perf_counter()
            hits = ask(query)
            times.append(time.perf_counter() - start)
            found += len(set(hits) & set(np.argpartition(-(rows @ query), LIMIT)[:LIMIT].tolist()))
        p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
        recall = found / (LIMIT * len(queries))
        print(f"{name:<12} {made:>8.0f} stored/s {p50:>9.2f} ms p50 {p99:>9.2f} ms p99  recall@10 {recall:.3f}", flush=True)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rows, queries = vectors(count, seed=2), vectors(QUERIES, seed=3)
    print(f"{count} vectors of {DIMENSIONS} dimensions, limit {LIMIT}")
    for name, make in [("sophia", sophia), ("sqlite-vec", sqlite_vec), ("chroma", chroma)]:
        measure(name, make, rows, queries)


main()
