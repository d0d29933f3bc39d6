from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ensemw2s.config.data import TemplateConfig
from ensemw2s.data.encode import encode_prompts, encode_split
from ensemw2s.data.example import Example
from ensemw2s.errors import ModelError

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
)
QUESTION = Example("q1", "Which is red?", "apple", ("apple", "leaf"))


def chatty(plain: Any, template: str = TURNS) -> Any:
    tokenizer = copy.deepcopy(plain)
    tokenizer.chat_template = template
    return tokenizer


def text(tokenizer: Any, tokens: Any) -> str:
    return str(tokenizer.decode(tokens.tolist()))


def test_the_prompt_is_the_users_turn_and_the_answer_begins_the_assistants(bpe: Any) -> None:
    tokenizer = chatty(bpe)
    template = TemplateConfig(prompt="Q: {prompt}", answer="{answer}", chat=True)
    enc = encode_split([QUESTION], tokenizer, template, "choice", None)
    assert text(tokenizer, enc.prompts[0]) == "<user>Q: Which is red?</s><bot>"
    assert [text(tokenizer, option) for option in enc.options[0]] == ["apple", "leaf"]
    whole = tokenizer("<user>Q: Which is red?</s><bot>apple", add_special_tokens=False)["input_ids"]
    assert [*enc.prompts[0], *enc.options[0][0]] == whole
    (prompt,) = encode_prompts([QUESTION], tokenizer, template, None)
    assert np.array_equal(prompt, enc.prompts[0])


def test_a_system_message_goes_first(bpe: Any) -> None:
    tokenizer = chatty(bpe)
    (prompt,) = encode_prompts([QUESTION], tokenizer, TemplateConfig(chat=True, system="Be short."), None)
    assert text(tokenizer, prompt) == "<system>Be short.</s><user>Which is red?</s><bot>"


def test_a_beginning_that_the_template_writes_is_not_written_twice(bpe_bos: Any) -> None:
    plain = bpe_bos
    (before,) = encode_prompts([QUESTION], plain, TemplateConfig(), None)
    assert before[0] == plain.bos_token_id
    for template in (TURNS, "{{ bos_token }}" + TURNS):
        (prompt,) = encode_prompts([QUESTION], chatty(plain, template), TemplateConfig(chat=True), None)
        assert prompt.tolist().count(plain.bos_token_id) == 1
        assert prompt[0] == plain.bos_token_id


def test_what_cannot_be_a_chat(bpe: Any) -> None:
    with pytest.raises(ModelError, match="has no chat template") as error:
        encode_prompts([QUESTION], bpe, TemplateConfig(chat=True), None)
    assert "chat: false" in str(error.value.hint)
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system message here') }}{% endif %}" + TURNS
    tokenizer = chatty(bpe, strict)
    with pytest.raises(ModelError, match="no system message here") as error:
        encode_prompts([QUESTION], tokenizer, TemplateConfig(chat=True, system="Hi"), None)
    assert "data.template.system" in str(error.value.hint)
    with pytest.raises(ValidationError, match="system has no place without chat"):
        TemplateConfig(system="Hi")
