"""Splits of a data set into easy and hard, and of these into train, validation, test, hard pool and hard test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ensemw2s.config.data import DataConfig, SplitConfig
from ensemw2s.data.duplicates import Duplicates, find_duplicates, split_overlaps
from ensemw2s.data.example import Example, Splits
from ensemw2s.data.label_noise import with_label_noise
from ensemw2s.data.sources import load_source
from ensemw2s.errors import DataError, did_you_mean
from ensemw2s.seeds import sub_seed

Task = Literal["choice", "generate"]
Notes = dict[str, Any]
_SHOWN = 20
_EASY = ("train", "validation", "test")
_HARD = ("hard_pool", "hard_test")


@dataclass(frozen=True, slots=True)
class _Pools:
    easy: list[Example]
    hard: list[Example]


#: Says which examples have options that nobody can tell apart, by id.
Indistinct = Callable[[Sequence[Example]], Collection[str]]


def make_splits(cfg: DataConfig, seed: int, task: Task, indistinct: Indistinct | None = None) -> Splits:
    """The five splits of a run; which example goes where depends on the data, the configuration and the seed only.

    ``cfg.seed`` goes before the run's ``seed``. ``task: choice`` needs options in every example, ``generate`` drops
    them. Questions of which ``indistinct`` says that two options are the same to a model are left out. Unless
    ``near_duplicates`` is ``keep``, no two examples in all splits ask the same question after normalising
    (:mod:`ensemw2s.data.duplicates`). ``label_noise`` replaces answers of the training split, and of no other. The
    notes count what was read, left out and why, and say how easy and hard were told apart.

    Raises:
        DataError: a file has a problem, difficulty is missing everywhere, or there are fewer examples than asked for.
    """
    seed = cfg.seed if cfg.seed is not None else seed
    notes: Notes = {"seed": seed}
    easy = _for_task(load_source(cfg.source, sub_seed(seed, "data", "source")), task)
    hard: list[Example] = []
    if cfg.hard_source is not None:
        hard = _for_task(load_source(cfg.hard_source, sub_seed(seed, "data", "hard_source")), task)
        hard = _distinct_ids(easy, hard, notes)
    notes["read"] = {"source": len(easy), "hard_source": len(hard)}
    by_difficulty = cfg.hard_source is None and cfg.split.by == "difficulty"
    if by_difficulty:
        # Before duplicates are removed: an example without difficulty must not displace its duplicate that has one.
        easy = _with_difficulty(easy, cfg.split, notes)
    if cfg.near_duplicates != "keep":
        (easy, hard), duplicates = _without_duplicates(easy, hard, cfg.near_duplicates)
        notes["dropped_duplicates"] = duplicates.to_json()
    if indistinct is not None:
        alike = set(indistinct([*easy, *hard]))
        easy, hard = ([example for example in part if example.id not in alike] for part in (easy, hard))
        notes["dropped_indistinct"] = {"count": len(alike), "ids": sorted(alike)[:_SHOWN]}
    rng = np.random.default_rng(sub_seed(seed, "data", "split"))
    if cfg.hard_source is not None:
        notes["rule"] = "hard_source"
        pools = _Pools(easy, hard)
    elif by_difficulty:
        pools = _difficulty_pools(easy, cfg.split, notes)
    else:
        pools = _random_pools(easy, cfg.split, rng, notes)
    notes["easy"], notes["hard"] = len(pools.easy), len(pools.hard)
    parts = _cut(pools.easy, _EASY, cfg.split, rng, notes) | _cut(pools.hard, _HARD, cfg.split, rng, notes)
    if cfg.label_noise:
        true = parts["train"]
        parts["train"] = with_label_noise(true, cfg.label_noise, seed)
        notes["label_noise"] = sum(a != b for a, b in zip(true, parts["train"], strict=True))
    splits = Splits(**parts, notes=notes)
    notes["sizes"] = {name: len(part) for name, part in parts.items()}
    if cfg.near_duplicates == "keep":
        notes["overlaps"] = split_overlaps(splits)
    return splits


def _for_task(examples: list[Example], task: Task) -> list[Example]:
    if task == "generate":
        return [replace(example, choices=None) for example in examples]
    without = [example.id for example in examples if example.choices is None]
    if without:
        raise DataError(
            f"task: choice needs options, but {len(without)} of {len(examples)} examples have none "
            f"(the first is {without[0]!r}).",
            hint="Name the column with the options in data.source.columns.choices, or set task: generate.",
        )
    return examples


def _distinct_ids(easy: list[Example], hard: list[Example], notes: Notes) -> list[Example]:
    """The hard examples, their ids marked with ``hard/`` if the two sources share any."""
    shared = {example.id for example in easy} & {example.id for example in hard}
    if not shared:
        return hard
    notes["hard_ids_prefixed"] = len(shared)
    taken = {example.id for example in easy}
    prefix = "hard/"
    while any(prefix + example.id in taken for example in hard):
        prefix += "hard/"
    return [replace(example, id=prefix + example.id) for example in hard]


def _without_duplicates(
    easy: list[Example], hard: list[Example], policy: str
) -> tuple[tuple[list[Example], list[Example]], Duplicates]:
    unique, found = find_duplicates([*easy, *hard])
    if found.of and policy == "error":
        shown = ", ".join(f"{first.id!r} and {later.id!r}" for first, later in found.of[:3])
        more = f" and {len(found.of) - 3} more" if len(found.of) > 3 else ""
        raise DataError(
            f"{len(found.of)} examples repeat an earlier question after normalising white space and case: "
            f"{shown}{more}.",
            hint="Remove them from the data, or set data.near_duplicates: drop.",
        )
    kept = {example.id for example in unique}
    return ([e for e in easy if e.id in kept], [e for e in hard if e.id in kept]), found


def _random_pools(examples: list[Example], cfg: SplitConfig, rng: np.random.Generator, notes: Notes) -> _Pools:
    """Easy and hard alike: sizes given as numbers are met exactly where one side has numbers only."""
    hard_share = 1.0 - (0.5 if cfg.hard_quantile is None else cfg.hard_quantile)
    total = len(examples)
    easy_sizes, hard_sizes = ([getattr(cfg, name) for name in group] for group in (_EASY, _HARD))
    if all(isinstance(size, int) for size in hard_sizes):
        hard = sum(hard_sizes)
    elif all(isinstance(size, int) for size in easy_sizes):
        hard = total - sum(easy_sizes)
    else:
        hard = round(hard_share * total)
    hard = min(max(hard, 0), total)
    order = rng.permutation(total)
    notes["rule"] = "random"
    return _Pools([examples[at] for at in order[hard:]], [examples[at] for at in order[:hard]])


def _with_difficulty(examples: list[Example], cfg: SplitConfig, notes: Notes) -> list[Example]:
    """The examples that the rule can tell easy from hard: with a level for ``hard_values``, else with a number."""
    if cfg.hard_values:
        known = [example for example in examples if example.level]
        what, otherwise = "a difficulty level", "use data.split.hard_above or hard_quantile with numbers"
    else:
        known = [example for example in examples if example.difficulty is not None]
        what, otherwise = "a difficulty", "set data.split.by: random"
    if not known:
        raise DataError(
            f"The split by difficulty needs {what}, but none of the {len(examples)} examples has one.",
            hint=f"Give data.source.columns.difficulty or data.source.annotations, or {otherwise}.",
        )
    notes["dropped_without_difficulty"] = len(examples) - len(known)
    return known


def _difficulty_pools(known: list[Example], cfg: SplitConfig, notes: Notes) -> _Pools:
    if cfg.hard_values:
        return _level_pools(known, cfg.hard_values, notes)
    values = np.asarray([example.difficulty for example in known], dtype=np.float64)
    if cfg.hard_above is not None:
        threshold = cfg.hard_above
        notes["rule"] = f"hard_above {threshold:g}"
    else:
        quantile = 0.5 if cfg.hard_quantile is None else cfg.hard_quantile
        threshold = float(np.quantile(values, quantile, method="inverted_cdf"))
        notes["rule"] = f"hard_quantile {quantile:g}"
    notes["threshold"] = threshold
    span = f"difficulty runs from {values.min():g} to {values.max():g}, and hard is above {threshold:g}"
    return _both_sides(known, (values > threshold).tolist(), span)


def _level_pools(known: list[Example], hard_values: Sequence[str], notes: Notes) -> _Pools:
    levels = Counter(example.level for example in known)
    folded = {level.casefold() for level in levels}
    for name in hard_values:
        if name.casefold() not in folded:
            guess = did_you_mean(name, sorted(levels), "levels")
            raise DataError(f"data.split.hard_values: no example has the level {name!r}{guess}.")
    hard_levels = {name.casefold() for name in hard_values}
    notes["rule"] = "hard_values " + ", ".join(hard_values)
    notes["levels"] = dict(sorted(levels.items()))
    is_hard = [example.level.casefold() in hard_levels for example in known]
    return _both_sides(known, is_hard, f"the levels are {', '.join(sorted(levels))}")


def _both_sides(examples: list[Example], is_hard: list[bool], how: str) -> _Pools:
    easy = [example for example, hard in zip(examples, is_hard, strict=True) if not hard]
    hard = [example for example, hard in zip(examples, is_hard, strict=True) if hard]
    for name, pool in (("easy", easy), ("hard", hard)):
        if not pool:
            raise DataError(f"No example is {name}: {how}.", hint="Change the rule in data.split.")
    return _Pools(easy, hard)


def _sizes(total: int, names: tuple[str, ...], cfg: SplitConfig) -> list[int]:
    """Numbers as they are; shares of the total are rounded so that shares that add up to 1 use every example."""
    sizes: list[int] = []
    share = 0.0
    for name in names:
        size = getattr(cfg, name)
        if isinstance(size, int):
            sizes.append(size)
            continue
        begin = round(round(share * total, 6))
        share += size
        sizes.append(round(round(share * total, 6)) - begin)
    return sizes


def _cut(
    pool: list[Example], names: tuple[str, ...], cfg: SplitConfig, rng: np.random.Generator, notes: Notes
) -> dict[str, list[Example]]:
    """Parts of a shuffled pool, by name."""
    total = len(pool)
    sizes = _sizes(total, names, cfg)
    side = "easy" if names == _EASY else "hard"
    asked = ", ".join(f"{name} {getattr(cfg, name)} = {size}" for name, size in zip(names, sizes, strict=True))
    if sum(sizes) > total:
        raise DataError(
            f"There are {total} {side} examples, but the splits ask for {sum(sizes)}: {asked} ({_history(notes)}).",
            hint="Make the numbers in data.split smaller, or give shares such as 0.2.",
        )
    for name, size in zip(names, sizes, strict=True):
        if size == 0 and (getattr(cfg, name) > 0 or name == "train"):
            raise DataError(
                f"The split {name!r} is empty: there are {total} {side} examples, {asked} ({_history(notes)}).",
                hint="Use more data, or change data.split.",
            )
    order = rng.permutation(total)
    ends = np.cumsum(sizes)
    notes[f"unused_{side}"] = int(total - ends[-1])
    return {
        name: [pool[at] for at in order[end - size : end]] for name, size, end in zip(names, sizes, ends, strict=True)
    }


def _history(notes: Notes) -> str:
    return ", ".join([f"{sum(notes['read'].values())} read", *left_out(notes)])


def left_out(notes: Mapping[str, Any]) -> list[str]:
    """Number of examples that the splits do not use and why, from their notes; one phrase a reason."""
    dropped = notes.get("dropped_duplicates", {})
    counts = {
        "ask an earlier question again": dropped.get("exact", 0) + dropped.get("near", 0),
        "contradict an earlier answer to the same question": dropped.get("contradictions", 0),
        "have options with the same tokens": notes.get("dropped_indistinct", {}).get("count", 0),
        "have no difficulty": notes.get("dropped_without_difficulty", 0),
        "are beyond the sizes in data.split": notes.get("unused_easy", 0) + notes.get("unused_hard", 0),
    }
    return [f"{count} {why}" for why, count in counts.items() if count]


def noise_phrase(notes: Mapping[str, Any]) -> str:
    """How many training answers are false on purpose, from the notes of the splits; empty where none is."""
    count = notes.get("label_noise", 0)
    return f"label noise: {count} of {notes['sizes']['train']} training answers are false on purpose" if count else ""
