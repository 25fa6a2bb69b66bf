"""Writes chroma.sql anew: what a persistent client of Chroma keeps, as far as an import reads it.

pip install chromadb==1.5.9 && python chroma.py > chroma.sql
"""

import sqlite3
import tempfile
from pathlib import Path

import chromadb

TABLES = ["collections", "segments", "embeddings", "embedding_metadata", "embedding_metadata_array", "embeddings_queue"]

with tempfile.TemporaryDirectory() as folder:
    client = chromadb.PersistentClient(folder)
    notes = client.create_collection("notes")
    notes.add(
        ids=["pdf", "standup", "gone", "vector only"],
        documents=["Ada wants the quarterly report as a PDF.", "The standup is at ten.", "Zürich – 東京", None],
        metadatas=[
            {"author": "ada", "year": 2024, "score": 0.5, "done": True, "labels": ["report", "pdf"]},
            {"author": "bob"},
            None,
            {"author": "ada"},
        ],
        embeddings=[[1.0, 0.0, 0.5], [0.0, 1.0, 0.25], [0.25, 0.5, 0.75], [0.5, 0.5, 0.5]],
    )
    notes.update(ids=["standup"], documents=["The standup is at half past ten."], embeddings=[[0.0, 0.5, 0.25]])
    notes.delete(ids=["gone"])
    other = client.create_collection("other")
    other.add(ids=["pdf"], documents=["The same id in another collection."], embeddings=[[0.5, 0.5, 0.0]])
    database = sqlite3.connect(Path(folder) / "chroma.sqlite3")
    print("-- Made by chroma.py. Other tables, which these refer to, are left out.\nPRAGMA foreign_keys = OFF;")
    for table in TABLES:
        (create,) = database.execute("SELECT sql FROM sqlite_schema WHERE name = ?", [table]).fetchone()
        print(f"{create};")
        columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
        quoted = ", ".join(f"quote({column})" for column in columns)
        for row in database.execute(f"SELECT {quoted} FROM {table}"):
            print(f"INSERT INTO {table} VALUES ({', '.join(row)});")
