"""Prompt templates: placeholders in braces, checked where they are used."""

from __future__ import annotations

import re
from functools import lru_cache

from ensemw2s.config.data import TemplateConfig
from ensemw2s.data.example import Example
from ensemw2s.data.fields import option_label
from ensemw2s.errors import ConfigError, DataError, did_you_mean, shortened

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


@lru_cache(maxsize=64)
def _pieces(template: str, where: str, needed: str, optional: tuple[str, ...]) -> tuple[tuple[bool, str], ...]:
    """A template as (is a placeholder, text or name); ``{{`` and ``}}`` are single braces.

    Raises:
        ConfigError: the needed placeholder is missing, or there is one that is not known.
    """
    pieces: list[tuple[bool, str]] = []
    at = 0
    for match in _PLACEHOLDER.finditer(template):
        pieces.append((False, template[at : match.start()]))
        at = match.end()
        name = match.group(1)
        if name is None:
            pieces.append((False, match.group(0)[0]))
        elif name in (needed, *optional):
            pieces.append((True, name))
        else:
            guess = did_you_mean(name, (needed, *optional), "known")
            hint = "Write {{ and }} for braces that are meant as such."
            raise ConfigError(f"{where}: unknown placeholder {{{name}}}{guess}.", hint=hint)
    pieces.append((False, template[at:]))
    if (True, needed) not in pieces:
        raise ConfigError(f"{where}: the placeholder {{{needed}}} is missing in {shortened(repr(template))}.")
    return tuple(pieces)


def check_template(template: TemplateConfig, prefix: str = "data.template") -> None:
    """Check the placeholders of both texts.

    Raises:
        ConfigError: one is missing or not known; names the key behind ``prefix``.
    """
    _pieces(template.prompt, f"{prefix}.prompt", "prompt", ("choices",))
    _pieces(template.answer, f"{prefix}.answer", "answer", ())


def _fill(pieces: tuple[tuple[bool, str], ...], values: dict[str, str]) -> str:
    return "".join(values[text] if is_placeholder else text for is_placeholder, text in pieces)


def render_prompt(example: Example, template: TemplateConfig) -> str:
    """The text before the answer. Braces in the example's own text mean nothing.

    Raises:
        ConfigError: ``{prompt}`` is missing or a placeholder is not known (``{answer}`` has no place here).
        DataError: ``{choices}`` is used, but the example has none.
    """
    pieces = _pieces(template.prompt, "data.template.prompt", "prompt", ("choices",))
    values = {"prompt": example.prompt}
    if (True, "choices") in pieces:
        if example.choices is None:
            raise DataError(
                f"data.template.prompt uses {{choices}}, but example {example.id!r} has none.",
                hint="Leave {choices} out of the template (task: generate drops the options).",
            )
        values["choices"] = "\n".join(f"{option_label(at)}. {text}" for at, text in enumerate(example.choices))
    return _fill(pieces, values)


def render_answer(text: str, template: TemplateConfig) -> str:
    """The text of an answer or option, as it follows the prompt.

    Raises:
        ConfigError: ``{answer}`` is missing or a placeholder is not known.
    """
    return _fill(_pieces(template.answer, "data.template.answer", "answer", ()), {"answer": text})
