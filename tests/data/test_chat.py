from __future__ import annotations

import copy
import time
from datetime import date
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from ensemw2s.config.data import TemplateConfig
from ensemw2s.data import chat_process
from ensemw2s.data.chat import prompt_texts
from ensemw2s.data.chat_process import render_chats
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


FEATURES = """{%- macro turn(m) -%}
<|{{ m.role }}|>
{{- m['content'] | trim }}{{ eos_token }}
{%- endmacro -%}
{{- bos_token }}
{% set ns = namespace(first=true) %}
{% for m in messages %}
    {%- if loop.index0 > 5 %}{% break %}{% endif %}
    {%- if ns.first %}{{ '[first]' }}{% set ns.first = false %}{% endif %}
    {{- turn(m) }}
    {%- generation %}!{% endgeneration %}
{% endfor %}
{{ {'a': 'é<b>', 'n': messages|length} | tojson }} {{ tools is none }} {{ undefined_one is defined }}
{% if add_generation_prompt %}<|assistant|>
{% endif %}"""


@pytest.mark.parametrize(
    ("template", "system", "who"),
    [
        ("hello", None, "user"),
        ("{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}", None, "user"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "Be short.", "system"),
        ("{{ messages[0].content }}", "Be short.", "user"),
    ],
)
def test_a_template_that_leaves_out_a_turn_is_refused(bpe: Any, template: str, system: str | None, who: str) -> None:
    """All questions would be the same text."""
    with pytest.raises(ModelError, match=f"it leaves out what the {who} says") as caught:
        encode_prompts([QUESTION], chatty(bpe, template), TemplateConfig(chat=True, system=system), None)
    assert ("system out" if system else "chat: false") in str(caught.value.hint)
    for kept in ("{{ messages[-1].content | trim }}", "{{ messages | tojson }}", "<{{ messages[-1]['content'] }}>"):
        encode_prompts([QUESTION], chatty(bpe, kept), TemplateConfig(chat=True), None)


def test_transformers_itself_renders(bpe_bos: Any) -> None:
    tokenizer = chatty(bpe_bos, FEATURES)
    question = Example("q", " Ωhat — is\n\nred? {{ 1 + 1 }} <b> ", "x", ("x", "y"))
    template = TemplateConfig(chat=True, system="Be {short}.")
    turns = [{"role": "system", "content": "Be {short}."}, {"role": "user", "content": question.prompt}]
    (found,) = prompt_texts([question], tokenizer, template)
    assert found == tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert "{{ 1 + 1 }}" in found
    assert "[first]" in found
    named = chatty(bpe_bos, "")
    named.chat_template = {"default": FEATURES, "tool_use": "no"}
    assert prompt_texts([question], named, template) == [found]


def test_the_clock_says_the_date_of_the_template(bpe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = chatty(bpe, "{{ strftime_now('%d %b %Y %H:%M:%S') }}: " + TURNS)
    dated = TemplateConfig(chat=True, date="2024-02-29T23:59:58")
    assert prompt_texts([QUESTION], clock, dated)[0].startswith("29 Feb 2024 23:59:58: <user>")
    assert prompt_texts([QUESTION], clock, TemplateConfig(chat=True, date="2026-03-05"))[0].startswith(
        "05 Mar 2026 00:0"
    )
    first = prompt_texts([QUESTION], clock, TemplateConfig(chat=True))
    monkeypatch.setattr("ensemw2s.data.chat.now", lambda: "2030-01-01T00:00:00")
    assert prompt_texts([QUESTION], clock, TemplateConfig(chat=True)) == first, "one date a process where none is given"


def test_a_template_that_chooses_at_random_chooses_alike(bpe: Any) -> None:
    dice = chatty(bpe, "{{ range(1000)|list|random }}{{ lipsum(n=1) }}" + TURNS)
    questions = [QUESTION, Example("q2", "Which is blue?", "sky", ("sky", "sea"))]
    one, two = prompt_texts(questions, dice, TemplateConfig(chat=True, date="2026-03-05"))
    assert one.partition("<user>")[0] == two.partition("<user>")[0]
    assert prompt_texts(questions[1:], dice, TemplateConfig(chat=True, date="2026-03-06")) == [two]


def test_dates() -> None:
    for written in ("2026-03-05", date(2026, 3, 5), "2026-03-05T00:00:00.5", "2026-03-05T00:00:00+02:00"):
        assert TemplateConfig(chat=True, date=written).date == "2026-03-05T00:00:00"  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="expected a date such as 2026-03-05"):
        TemplateConfig(chat=True, date="tomorrow")
    with pytest.raises(ValidationError, match="date has no place without chat"):
        TemplateConfig(date="2026-03-05")


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'a' * 10**11 }}{{ 'a'|center(10**11) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for i in range(99999) %}{{ 'a' * 100 }}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ '\\ud800' }}",
        "{{ messages[7].content }}",
    ],
    ids=["loops", "doubling", "repeats", "recursion", "long", "escape", "nested", "surrogate", "missing"],
)
def test_a_template_that_never_ends_or_fills_the_memory_is_stopped(
    template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_process, "_START", 2.0)
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"chat template (was stopped|cannot be applied)"):
        render_chats(template, {}, [[{"role": "user", "content": "Hi"}]], "2026-03-05")
    assert time.monotonic() - start < 15


def test_many_prompts_are_rendered_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_process, "_AT_ONCE", 10)
    chats = [[{"role": "user", "content": f"{n} and more"}] for n in range(3)]
    assert render_chats("{{ messages[0].content }}.", {}, chats, "2026-03-05") == [f"{n} and more." for n in range(3)]
