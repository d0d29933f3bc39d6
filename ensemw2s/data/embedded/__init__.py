"""The embedded tokenizer and pre-trained bases, and how they are built.

The folders ``weak`` and ``strong`` beside this file are ordinary Hugging Face model folders. They are rebuilt by
``python -m ensemw2s.data.embedded.build --seed 1234 --out DIR``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from ensemw2s.errors import ModelError

BaseName = Literal["weak", "strong"]
BASE_NAMES: tuple[BaseName, ...] = get_args(BaseName)


def base_path(name: str) -> Path:
    """The folder of an embedded base: ``weak`` or ``strong``.

    Raises:
        ModelError: there is no base of that name, or the installation lacks its files.
    """
    if name not in BASE_NAMES:
        raise ModelError(
            f"There is no embedded base {name!r}.", hint="Use " + " or ".join(f"embedded:{n}" for n in BASE_NAMES) + "."
        )
    folder = Path(__file__).resolve().parent / name
    if not (folder / "model.safetensors").is_file():
        raise ModelError(
            f"The embedded base {name!r} has no weights in {folder}.",
            hint="Reinstall the package, or build them: python -m ensemw2s.data.embedded.build --seed 1234 --out DIR.",
        )
    return folder
