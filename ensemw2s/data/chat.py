"""The text before an answer, plain or as a turn of a chat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ensemw2s.config.data import TemplateConfig
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
    if not template.chat:
        return texts
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'the model'} has no chat template, which "
            "data.template.chat: true needs.",
            hint="Set data.template.chat: false, or use a model that was trained for chat.",
        )
    import jinja2

    before = [] if template.system is None else [{"role": "system", "content": template.system}]
    out: list[str] = []
    for text in texts:
        turns = [*before, {"role": "user", "content": text}]
        try:
            out.append(str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)))
        except (jinja2.TemplateError, ValueError, TypeError) as error:
            hint = "Leave data.template.system out: not every chat template knows system messages." if before else None
            raise ModelError(f"The chat template cannot be applied: {error}", hint=hint) from error
    return out
