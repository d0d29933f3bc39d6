"""Checks of a model folder's JSON files before ``transformers`` reads them, with errors that name file and key."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from ensemw2s.errors import ModelError, shortened
from ensemw2s.files import load_json
from ensemw2s.models.loading.source import ModelSource

_LIMIT = 64 * 2**20
_WIDTHS = (
    "n_head",
    "head_dim",
    "hidden_size",
    "intermediate_size",
    "n_embd",
    "d_model",
    "num_attention_heads",
    "num_key_value_heads",
)
#: Sizes in ``config.json`` and more than any model has: such a number would fill the memory.
_MOST = {
    **dict.fromkeys(_WIDTHS, 10**6),
    "vocab_size": 10**8,
    "max_position_embeddings": 10**9,
}


def check_model_folder(source: ModelSource) -> None:
    """Look at ``config.json`` and the index of weights of a local folder; others are not looked at.

    Raises:
        ModelError: a file is no JSON object or has a key twice, a size is no possible number, or the index names a file
            outside of the folder.
    """
    if source.folder is None:
        return
    config = source.folder / "config.json"
    if config.is_file():
        _check_sizes(config, _object(config), "")
    for index in sorted(source.folder.glob("*.safetensors.index.json")):
        _check_index(index, _object(index))


def _object(file: Path) -> dict[str, Any]:
    try:
        content = load_json(file, _LIMIT)
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"{file} cannot be loaded: {reason}.", hint="Fetch or save the model again.") from error
    return content


def _check_sizes(file: Path, content: dict[str, Any], above: str) -> None:
    for key, value in content.items():
        if isinstance(value, dict):
            _check_sizes(file, value, f"{above}{key}.")
        most = _MOST.get(key)
        if most is None or value is None or isinstance(value, dict | list):  # a list: one number a layer
            continue
        if type(value) is not int or not 0 <= value <= most:
            raise ModelError(
                f"{file}: {shortened(above + key)} is {shortened(repr(value))}; expected a whole number up to {most}.",
                hint="Is the file damaged? Fetch or save the model again.",
            )


def _check_index(file: Path, content: dict[str, Any]) -> None:
    names = content.get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{file}: weight_map is no object of file names.", hint="Fetch or save the model again.")
    for key, name in names.items():
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not name.endswith(".safetensors") or "\0" in name:
            raise ModelError(
                f"{file}: weight_map.{shortened(key, 100)} names {shortened(repr(name))}; expected a .safetensors file "
                "in the same folder.",
                hint="Weights are read from the model's folder only. Fetch or save the model again.",
            )


def check_quantization(config: Any, name: str) -> None:
    """Whether ``transformers`` knows how a model's weights are quantized: it would load others as if they were not.

    Raises:
        ModelError: it does not; names the method.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    declared = getattr(config, "quantization_config", None)
    if declared is None:
        return
    known = set(AUTO_QUANTIZATION_CONFIG_MAPPING) | {"bitsandbytes"}
    method = declared.get("quant_method") if isinstance(declared, dict) else getattr(declared, "quant_method", None)
    if isinstance(declared, dict) and method is None and (declared.get("load_in_8bit") or declared.get("load_in_4bit")):
        return
    method = getattr(method, "value", method)
    if not isinstance(method, str) or method not in known:
        raise ModelError(
            f"The config.json of {name} names the quantization method (quantization_config.quant_method) "
            f"{shortened(repr(method))}, which transformers does not know.",
            hint=f"It knows {', '.join(sorted(known))}. Is a newer transformers needed, or the model damaged?",
        )
