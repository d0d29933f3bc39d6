"""The hardest examples and tokens as lines: which tokens carry the weight, what the expert said, how it moved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ensemw2s.cli.dashboard.drawing.text import Line, cut, fit, level, line_width, sparkline, visible, width_of, wrap
from ensemw2s.cli.dashboard.model.fields import NAN, known
from ensemw2s.cli.dashboard.model.model import HardExample, RunModel
from ensemw2s.cli.dashboard.model.names import clean, percent, short
from ensemw2s.cli.dashboard.panels.context import Choices, PanelContext

MAX_TOKENS = 400
MAX_ROUNDS_SHOWN = 12


@dataclass
class Entry:
    """An example in the list: its rank by weight in the round, and its weight relative to the round before."""

    rank: int
    example: HardExample
    growth: float
    history: list[float]


def shown_round(model: RunModel, choices: Choices) -> int | None:
    """The round that is shown: the chosen one, else the newest."""
    if choices.round in model.hard:
        return choices.round
    return max(model.hard, default=None)


def step_round(model: RunModel, choices: Choices, by: int) -> None:
    """Show the round before or after; past the newest is always the newest."""
    rounds = sorted(model.hard)
    now = shown_round(model, choices)
    if now is None:
        return
    place = min(max(0, rounds.index(now) + by), len(rounds) - 1)
    choices.round = None if place == len(rounds) - 1 else rounds[place]
    choices.changed()


def find(model: RunModel, round_: int, example_id: str) -> HardExample | None:
    """An example in a round's list."""
    return next((e for e in model.hard.get(round_, []) if e.id == example_id), None)


def entries(model: RunModel, choices: Choices) -> list[Entry]:
    """The examples of the shown round, searched and sorted."""
    now = shown_round(model, choices)
    if now is None:
        return []
    rounds = sorted(model.hard)
    before = rounds[rounds.index(now) - 1] if rounds.index(now) > 0 else None
    by_weight = sorted(model.hard[now], key=lambda e: -e.weight)
    found = []
    for rank, example in enumerate(by_weight, start=1):
        if not _matches(example, choices.token_search):
            continue
        history = [e.weight if (e := find(model, t, example.id)) is not None else NAN for t in rounds]
        old = find(model, before, example.id) if before is not None else None
        growth = example.weight / old.weight if old is not None and old.weight > 0 else NAN
        found.append(Entry(rank, example, growth, history))
    if choices.token_sort == "wrong":
        found.sort(key=lambda e: (-e.example.wrong_tokens / max(1, len(e.example.tokens)), e.rank))
    elif choices.token_sort == "growth":
        found.sort(key=lambda e: (-e.growth if known(e.growth) else float("inf"), e.rank))
    elif choices.token_sort == "prompt":
        found.sort(key=lambda e: (e.example.prompt.casefold(), e.rank))
    return found


def chosen(model: RunModel, choices: Choices) -> HardExample | None:
    """The example under the cursor; the first where that one is not in the list."""
    found = [entry.example for entry in entries(model, choices)]
    return next((e for e in found if e.id == choices.token_example), found[0] if found else None)


def _matches(example: HardExample, search: str) -> bool:
    words = search.casefold().split()
    answer = "".join(example.tokens)
    text = f"{example.id} {example.prompt} {answer} {''.join(example.predicted)}".casefold()
    return all(word in text for word in words)


def times_uniform(model: RunModel, weight: float, tokens: int = 1) -> str:
    """A weight as a multiple of what uniform weights would give these tokens."""
    if not known(weight):
        return "–"
    if model.tokens <= 0:
        return short(float(f"{weight:.3g}"))
    ratio = weight * model.tokens / max(1, tokens)
    return f"×{ratio:.0f}" if ratio >= 99.5 else f"×{ratio:.1f}"


def heat(weight: float, largest: float) -> tuple[str, float]:
    """Style key and share (0 to 1) of a weight; the square root keeps light tokens apart."""
    part = (weight / largest) ** 0.5 if known(weight) and largest > 0 and weight > 0 else 0.0
    return f"heat:{min(1.0, part):.2f}", min(1.0, part)


def _largest(examples: list[HardExample]) -> float:
    return max((w for e in examples for w in e.weights if known(w)), default=0.0)


def answer_line(example: HardExample, largest: float, width: int) -> Line:
    """The answer's tokens behind one another, coloured by weight; wrong ones underlined."""
    line: Line = []
    left = width
    for token, weight, wrong in zip(example.tokens, example.weights, example.wrong, strict=True):
        shown = cut(visible(token), max(1, left))
        if left <= width_of(shown):
            line.append(("…", "dim"))
            break
        key, _ = heat(weight, largest)
        line.append((shown, key + (" underline bold" if wrong >= 0.5 else "")))
        left -= width_of(shown)
    return line


def bad(example: HardExample) -> str:
    """Style key of a count of wrong tokens."""
    return "bad" if example.wrong_tokens else "dim"


def list_lines(context: PanelContext, width: int) -> tuple[list[Line], list[int | None], list[Entry]]:
    """Two lines an example: rank, weight, wrong tokens, movement, prompt; then the answer."""
    model = context.model
    found = entries(model, context.choices)
    if not found:
        text = (
            "Nothing matches the search." if context.choices.token_search else "No round has reported its tokens yet."
        )
        return [[(text, "dim")]], [None], []
    largest = _largest([entry.example for entry in found])
    lines: list[Line] = []
    items: list[int | None] = []
    wide = width >= 64
    for place, entry in enumerate(found):
        example = entry.example
        spark = sparkline(entry.history[-8:])
        wrong = f"{example.wrong_tokens}/{len(example.tokens)}"
        head: Line = [
            (fit(str(entry.rank), 3, ">") + " ", "dim"),
            (fit(f"{percent(example.weight, 2)} %", 7, ">") + "  ", "bold text"),
        ]
        if wide:
            head.append((fit(times_uniform(model, example.weight, len(example.tokens)), 6, ">") + "  ", "dim"))
        head.append((fit(f"{wrong} wrong" if wide else f"✕{wrong}", 12 if wide else 7), bad(example)))
        head.append((fit(spark, min(8, len(entry.history)) + 1), "blue"))
        used = line_width(head)
        lines.append([*head, (cut(clean(example.prompt), max(4, width - used)), "text")])
        lines.append([("    ", "dim"), *answer_line(example, largest, width - 5)])
        items += [place, place]
    return lines, items, found


def detail_lines(context: PanelContext, width: int) -> list[Line]:
    """One example in full: prompt, answer with weights and predictions, and its weights in every round."""
    model, choices = context.model, context.choices
    now = shown_round(model, choices)
    if now is None:
        return [[("After each round the 20 heaviest training examples appear here.", "dim")]]
    example = chosen(model, choices)
    if example is None:
        return [[("No example.", "dim")]]
    rounds = [t for t in sorted(model.hard) if find(model, t, example.id) is not None]
    lines: list[Line] = [
        [(clean(example.id), "bold text"), (f"  round {now}", "dim")],
        [
            (times_uniform(model, example.weight, len(example.tokens)), "bold text"),
            (" uniform" if model.tokens else " of all weight", "dim"),
            (f" · {percent(example.weight, 2)} % of all weight · ", "dim"),
            (f"{example.wrong_tokens} of {len(example.tokens)} tokens wrong", "bad" if example.wrong_tokens else "dim"),
        ],
        [],
    ]
    lines += [[(text, "text")] for text in wrap(clean(example.prompt), width, 12)]
    lines.append([])
    lines += _blocks(model, example, now, rounds, width)
    absent = [str(t) for t in sorted(model.hard) if t not in rounds]
    if absent:
        note = f"Not among the heaviest in round {', '.join(absent[:12])}{' …' if len(absent) > 12 else ''}."
        lines += [[], *([(text, "faint")] for text in wrap(note, width))]
    lines += [[], *([(text, "dim")] for text in wrap(LEGEND, width))]
    return lines


LEGEND = (
    "Height and colour: token weight D_t, square root scale, the largest of this example is full. ✕: the expert's "
    "arg-max there is wrong; “expert” shows it. ␣ is a space."
)
_LABEL = 9


def _blocks(model: RunModel, example: HardExample, now: int, rounds: list[int], width: int) -> list[Line]:
    """The answer in blocks as wide as the panel; below each the weights by round."""
    if not example.tokens:
        return [[("The answer has no tokens.", "dim")]]
    shown = [visible(token) for token in example.tokens[:MAX_TOKENS]]
    said = [visible(token) for token in example.predicted[:MAX_TOKENS]]
    wide = [
        max(3, width_of(a), width_of(b) if w >= 0.5 else 0) for a, b, w in zip(shown, said, example.wrong, strict=False)
    ]
    spare = (width - _LABEL - sum(wide) - len(wide)) // len(wide)
    wide = [min(w + max(0, min(spare, 5 - w)), max(2, width - _LABEL - 1)) for w in wide]
    history = {t: e for t in rounds[-MAX_ROUNDS_SHOWN:] if (e := find(model, t, example.id)) is not None}
    largest = _largest(list(history.values()) or [example])
    lines: list[Line] = []
    start = 0
    while start < len(shown):
        end, used = start, _LABEL
        while end < len(shown) and (end == start or used + wide[end] + 1 <= width):
            used += wide[end] + 1
            end += 1
        lines += _block(example, history, now, largest, shown, said, wide, range(start, end))
        start = end
    if len(example.tokens) > MAX_TOKENS:
        lines.append([(f"… {len(example.tokens) - MAX_TOKENS} more tokens", "dim")])
    return lines


def _block(
    example: HardExample,
    history: dict[int, HardExample],
    now: int,
    largest: float,
    shown: list[str],
    said: list[str],
    wide: list[int],
    places: range,
) -> list[Line]:
    answer: Line = [(fit("answer", _LABEL), "dim")]
    expert: Line = [(fit("expert", _LABEL), "dim")]
    for j in places:
        key, _ = heat(example.weights[j], largest)
        wrong = example.wrong[j] >= 0.5
        token = cut(shown[j], wide[j])
        answer += [(token, key + (" bold underline" if wrong else "")), (" " * (wide[j] - width_of(token)), key)]
        answer.append((" ", "text"))
        expert.append((fit(said[j] if wrong else "·", wide[j] + 1), "bold bad" if wrong else "faint"))
    lines = [answer, expert]
    for t in sorted(history, reverse=True):
        old = history[t]
        row: Line = [(fit(f"{'▸' if t == now else ' '} r{t}", _LABEL), "bold text" if t == now else "dim")]
        for j in places:
            if j >= len(old.weights):
                row.append((" " * (wide[j] + 1), "text"))
                continue
            part = heat(old.weights[j], largest)[1]
            row.append((level(part * 0.999) * (wide[j] - 1), f"ink:{part:.2f}"))
            row.append(("✕ " if old.wrong[j] >= 0.5 else "  ", "bad"))
        lines.append(row)
    lines.append([])
    return lines


def token_rows(context: PanelContext) -> list[dict[str, Any]]:
    """The tokens of the shown round as data, one row a token."""
    model = context.model
    now = shown_round(model, context.choices)
    return [
        {
            "round": now, "rank": entry.rank, "id": entry.example.id, "prompt": entry.example.prompt, "position": j + 1,
            "token": entry.example.tokens[j], "weight": entry.example.weights[j], "wrong": entry.example.wrong[j],
            "predicted": entry.example.predicted[j],
        }
        for entry in entries(model, context.choices)
        for j in range(len(entry.example.tokens))
    ]  # fmt: skip
