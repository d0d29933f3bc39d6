"""The prompt as text, plain or rendered by the tokenizer's chat template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING

from ensemw2s.config.data import TemplateConfig
from ensemw2s.data.chat_process import render_chats
from ensemw2s.data.example import Example
from ensemw2s.data.template import render_prompt
from ensemw2s.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_texts(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, template: TemplateConfig
) -> list[str]:
    """The text before the answer of every example, with ``template.chat`` as the tokenizer's chat template writes it.

    Raises:
        ModelError: the tokenizer has no chat template, or it cannot be applied.
        ConfigError, DataError: as in :func:`ensemw2s.data.template.render_prompt`.
    """
    texts = [render_prompt(example, template) for example in examples]
    if not template.chat or not texts:
        return texts
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'the model'} has no chat template, which "
            "data.template.chat: true needs.",
            hint="Set data.template.chat: false, or use a model that was trained for chat.",
        )
    before = [] if template.system is None else [{"role": "system", "content": template.system}]
    try:
        written = str(tokenizer.get_chat_template())
    except ValueError as error:
        raise ModelError(f"The chat template cannot be applied: {error}") from error
    variables = json.dumps(tokenizer.special_tokens_map, default=str)
    try:
        return list(_rendered(written, variables, json.dumps(before), tuple(texts), template.date or _undated()))
    except ModelError as error:
        without = "data.template.system out: not every chat template knows system messages."
        other = "Set data.template.chat: false, or take a model whose chat template knows plain text."
        error.hint = error.hint or (f"Leave {without}" if before else other)
        raise


@lru_cache(maxsize=32)
def _rendered(template: str, variables: str, before: str, texts: tuple[str, ...], date: str) -> tuple[str, ...]:
    """The same prompts are asked for once a view of a split; a process for each would take a second."""
    chats = [[*json.loads(before), {"role": "user", "content": text}] for text in texts]
    return tuple(render_chats(template, json.loads(variables), chats, date))


def now() -> str:
    """Date and time of the clock on the wall, in ISO form."""
    return datetime.now().replace(microsecond=0).isoformat()


#: The default date of chat templates, constant within a process.
_undated = cache(now)
