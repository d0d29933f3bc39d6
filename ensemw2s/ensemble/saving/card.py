"""The model card of a saved ensemble: experts, results of its run, usage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ensemw2s.arms import ENSEMBLE, arm_names, arm_spec
from ensemw2s.ensemble.combine.option_scores import normalise
from ensemw2s.ensemble.folder import SavedEnsemble, size_text
from ensemw2s.evaluation.results import Results
from ensemw2s.text import markdown, printable, quoted, scalar

_SPLITS = {"test": "in distribution", "hard_test": "out of distribution"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """Facts of the card besides the run's results."""

    title: str
    address: str
    """What the ensemble is loaded by."""
    alphas: Sequence[float]
    """``α_t``, not normalised."""
    rule: str
    length_norm: str
    task: str
    prompt: str
    adapters: bool
    """Whether the experts are adapters over one base."""
    base: str | None
    """The weak base's id on the hub, if known."""
    saved: SavedEnsemble


def model_card(facts: CardFacts, results: Results | None) -> str:
    """Markdown with the hub's header."""
    parts = [_header(facts), f"# {markdown(facts.title)}", _what(facts), _experts(facts)]
    if results is not None:
        parts += [_numbers(results)]
    parts += [_use(facts), _LIMITS, _CITATION]
    return "\n\n".join(parts) + "\n"


def _header(facts: CardFacts) -> str:
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    lines += [f"base_model: {scalar(facts.base)}"] if facts.base else []
    tags = ["ensemw2s", "ensemble", "boosting", "weak-to-strong-generalization", *(["lora"] if facts.adapters else [])]
    return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _what(facts: CardFacts) -> str:
    count = len(facts.alphas)
    how = "LoRA adapters over one base" if facts.adapters else "fine-tuned copies of one weak base"
    form = {
        "mixture": "`P(v) = Σ ᾱ_t P_t(v)`",
        "product": "`P(v) ∝ Π P_t(v)^ᾱ_t`",
        "vote": "the weighted vote of their most probable tokens",
    }[facts.rule]
    experts = f"{count} experts, {how}" if count > 1 else f"one expert, {how}"
    return (
        f"An ensemble of {experts}, boosted token by token on labelled easy questions with "
        f"[EnsemW2S](https://arxiv.org/abs/2505.21959). Next-token distributions are combined as {form}, with "
        "`ᾱ = α/Σα`."
    )


def _experts(facts: CardFacts) -> str:
    shares = normalise(facts.alphas)
    pairs = enumerate(zip(facts.alphas, shares, strict=True), start=1)
    rows = [f"| {k} | {alpha:.4f} | {share:.3f} |" for k, (alpha, share) in pairs]
    saved = facts.saved
    size = f"Weights: {size_text(saved.expert_bytes)} of experts"
    size += f" over a base of {size_text(saved.base_bytes)}." if facts.adapters else "."
    return "\n".join(["## Experts", "", "| expert | α | ᾱ |", "| ---: | ---: | ---: |", *rows, "", size])


def _numbers(results: Results) -> str:
    splits = [split for split in _SPLITS if any(split in arm for arm in results.arms.values())]
    lines = ["## What the run measured", "", "| accuracy in % | " + " | ".join(_SPLITS[s] for s in splits) + " |"]
    lines += ["| --- |" + " ---: |" * len(splits)]
    weak = arm_names(lambda spec: spec.side == "weak" and spec.kind in ("zero-shot", "teacher"))
    for arm in dict.fromkeys((ENSEMBLE, *weak)):
        words = "this ensemble" if arm == ENSEMBLE else arm_spec(arm).label
        found = results.arms.get(arm)
        if found is None:
            continue
        cells = [
            f"{100 * r.accuracy:.1f} [{100 * r.low:.1f}, {100 * r.high:.1f}]" if (r := found.get(split)) else ""
            for split in splits
        ]
        lines.append(f"| {words} | " + " | ".join(cells) + " |")
    counts = ", ".join(f"{results.split_sizes[s]} questions {_SPLITS[s]}" for s in splits if s in results.split_sizes)
    about = f"{100 * results.level:.0f} % Wilson intervals{'; ' + counts if counts else ''}. "
    about += f"Run `{markdown(results.name)}`, seed {results.seed}, configuration `{results.config_fingerprint[:16]}`: "
    about += "one seed speaks about these models, not about the method."
    notes = [f"- {markdown(note)}" for note in results.notes]
    return "\n".join([*lines, "", about, *(["", *notes] if notes else [])])


def _use(facts: CardFacts) -> str:
    prompt = printable(facts.prompt.replace("`", "'").replace("\n", "\\n"))
    address = quoted(facts.address)
    return f"""## How to use it

```python
import ensemw2s.ensemble  # registers the model with transformers
from transformers import pipeline

generate = pipeline("text-generation", model={address})
```

```python
from ensemw2s import Ensemble

ensemble = Ensemble.from_pretrained({address})  # .score(questions), .generate(prompts)
```

Prompts were rendered as `{prompt}`; `Ensemble` does so by itself, `pipeline` leaves it to you. Options are scored by
the log-probability of their tokens ({facts.length_norm} over an option). Trained for task `{facts.task}`."""


_LIMITS = """## Limits

The experts were fine-tuned on one kind of question and answer in that form; other prompts get the weak base's habits.
The data and the base have their own licences, which apply to these weights too."""

_CITATION = """## Citation

```bibtex
@inproceedings{agrawal2026ensemw2s,
  title = {EnsemW2S: Enhancing Weak-to-Strong Generalization with Large Language Model Ensembles},
  author = {Agrawal, Aakriti and Ding, Mucong and Deng, Chenghao and Che, Zora and Rajaram, Arjun and Satheesh, Anirudh
            and An, Bang and Bruss, C. Bayan and Langford, John and Huang, Furong},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2026},
  year = {2026},
  note = {arXiv:2505.21959}
}
```"""
