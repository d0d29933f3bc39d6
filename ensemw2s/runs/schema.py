"""The event log's schema, version 1: every kind of line, its fields and their types.

Every line of ``events.jsonl`` and ``metrics.jsonl`` is ``{"v": 1, "t": unix seconds, "kind": …, …}``. New kinds and new
optional fields do not change the version; readers ignore what they do not know. ``docs/events.md`` explains each field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

SCHEMA_VERSION = 1

#: Bytes of a line, its end included. Longer ones are not written, and nothing is read from there on.
LONGEST_LINE = 1 << 23

#: Milestones (``events.jsonl``): field → type. ``?`` at the end allows null; ``~`` in front, absence.
EVENTS: dict[str, dict[str, str]] = {
    "run_started": {
        "name": "str", "seed": "int", "task": "str", "preset": "str?", "config_fingerprint": "str", "resumed": "bool",
        "versions": "object", "host": "str",
    },
    "plan": {"stages": "list[str]", "records": "~list[object]"},
    "stage_started": {"stage": "str"},
    "stage_finished": {"stage": "str", "seconds": "float", "cached": "bool", "parts": "~list[str]"},
    "stage_rerun": {"stage": "str", "reason": "str"},
    "data_ready": {"counts": "object", "tokens": "any", "notes": "any"},
    "round_started": {"round": "int", "rounds": "int"},
    "round_finished": {
        "round": "int", "epsilon": "float?", "epsilon_raw": "float?", "epsilon_prior": "float?", "alpha": "float?",
        "kept": "bool", "errors_from": "str", "n_eff": "float?", "top1_share": "float?", "validation": "float?",
        "seconds": "~float",
    },
    "round_scored": {
        "round": "int", "arm": "str", "split": "str", "expert_accuracy": "float?", "ensemble_accuracy": "float?",
        "expert_token_accuracy": "float?", "ensemble_token_accuracy": "float?",
    },
    "boosting_stopped": {"reason": "str", "rounds": "int", "selected_rounds": "int"},
    "arm_result": {
        "arm": "str", "split": "str", "accuracy": "float?", "low": "float?", "high": "float?", "n": "int",
        "token_accuracy": "float?",
    },
    "labels_done": {
        "teacher": "str", "n": "int", "kept": "int", "mean_confidence": "float?", "mean_agreement": "float?",
        "accuracy": "float?",
    },
    "label_sample": {
        "teacher": "str", "prompt": "str", "label": "str", "confidence": "float?", "agreement": "float?",
        "correct": "bool?",
    },
    "hard_tokens": {"round": "int", "examples": "list[object]"},
    "message": {"level": "level", "text": "str"},
    "run_finished": {"seconds": "float"},
    "run_failed": {"error": "str", "stage": "str?"},
}  # fmt: skip

#: Step metrics (``metrics.jsonl``).
METRICS: dict[str, dict[str, str]] = {
    "train": {
        "tag": "str", "step": "int", "steps": "int", "loss": "float?", "learning_rate": "float?",
        "grad_norm": "~float?", "clipped": "~float", "tokens_per_second": "float?",
    },
    "label": {
        "teacher": "str", "done": "int", "total": "int", "per_second": "float?", "confidences": "list[float?]",
    },
    "decode": {"tag": "str", "models": "int", "prompt_tokens": "int", "new_tokens": "int"},
    "progress": {"task": "str", "done": "int", "total": "int"},
    "system": {"cpu": "float?", "rss": "int"},
}  # fmt: skip

#: Fields of every object in ``hard_tokens.examples`` and in ``plan.records``.
HARD_TOKEN_EXAMPLE: dict[str, str] = {
    "id": "str", "prompt": "str", "tokens": "list[str]", "weights": "list[float]", "wrong": "list[float]",
    "predicted": "list[str]",
}  # fmt: skip
PLAN_RECORD: dict[str, str] = {
    "name": "str", "kind": "str", "group": "str", "side": "str", "arm": "str", "round": "int?", "expected": "bool",
}  # fmt: skip
_INSIDE = {"hard_tokens": ("examples", HARD_TOKEN_EXAMPLE), "plan": ("records", PLAN_RECORD)}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "any": lambda value: True,
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": _number,
    "object": lambda value: isinstance(value, dict),
    "level": lambda value: value in ("info", "warning", "error"),
}


def _fits(value: Any, spec: str) -> bool:
    if spec.startswith("list["):
        return isinstance(value, list) and all(_fits(item, spec[5:-1]) for item in value)
    if spec.endswith("?"):
        return value is None or _fits(value, spec[:-1])
    return _CHECKS[spec](value)


def _field_problems(record: Mapping[str, Any], fields: Mapping[str, str], where: str) -> list[str]:
    problems = []
    for name, declared in fields.items():
        spec = declared.removeprefix("~")
        if name not in record:
            if not declared.startswith("~"):
                problems.append(f"{where}: field {name!r} is missing")
        elif not _fits(record[name], spec):
            problems.append(f"{where}: field {name!r} should be {spec}, got {record[name]!r}")
    problems += [f"{where}: field {name!r} is not in the schema" for name in record if name not in fields]
    return problems


def validate(record: Any, stream: str = "events") -> list[str]:
    """Errors of one decoded line; an empty list if there are none.

    Args:
        record: the decoded JSON value.
        stream: ``events`` or ``metrics``: which file the line is from.

    Returns:
        Problems, each naming the kind and the field.
    """
    kinds = {"events": EVENTS, "metrics": METRICS}[stream]
    if not isinstance(record, dict):
        return ["a line is a JSON object"]
    problems = []
    if record.get("v") != SCHEMA_VERSION:
        problems.append(f"v should be {SCHEMA_VERSION}, got {record.get('v')!r}")
    if not _number(record.get("t")):
        problems.append(f"t should be unix seconds, got {record.get('t')!r}")
    kind = record.get("kind")
    if kind not in kinds:
        return [*problems, f"unknown kind {kind!r} in {stream}.jsonl"]
    body = {name: value for name, value in record.items() if name not in ("v", "t", "kind")}
    problems += _field_problems(body, kinds[kind], str(kind))
    field, inside = _INSIDE.get(str(kind), ("", {}))
    for index, item in enumerate(body.get(field, ()) if not problems else ()):
        problems += _field_problems(item, inside, f"{kind}.{field}[{index}]")
    return problems
