"""Compatibility of the experts' tokenizers, which decides how experts are combined."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.data.tokenizer import beginning
from ensemw2s.ensemble.folder import TOKENIZER_FILES
from ensemw2s.ensemble.mixed.token_texts import token_texts
from ensemw2s.errors import DataError, ModelError
from ensemw2s.models.forward import vocabulary_size
from ensemw2s.models.loading.gguf import opened_source
from ensemw2s.models.loading.info import configuration
from ensemw2s.models.loading.load import LoadedModel, load_tokenizer
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.source import base_of

How = Literal["tokens", "options", "union"]


@dataclass(frozen=True, slots=True)
class Compatibility:
    """Compatibility of the tokenizers of experts."""

    experts: tuple[str, ...]
    """Their names."""
    sizes: tuple[int, ...]
    """Number of logits of each; they can differ by padding though the tokenizers are the same."""
    same_tokens: bool
    """Whether every prompt and answer becomes the same token ids for all."""
    same_end: bool
    """Whether their end-of-sequence tokens are the same."""
    shared: float
    """Token texts that all know, as a share of the smallest vocabulary."""
    differences: tuple[str, ...] = ()
    """Where tokenizers differ, one sentence each."""

    def how(self, task: str) -> How:
        """The way in which they are combined.

        ``tokens``: token by token. ``options`` (``task: choice``): by their probabilities of whole options
        (:mod:`ensemw2s.ensemble.combine.choices`). ``union``: text is written from the union of the vocabularies
        (:mod:`ensemw2s.ensemble.mixed.union`).
        """
        if self.same_tokens and (task == "choice" or self.same_end):
            return "tokens"
        return "options" if task == "choice" else "union"

    @property
    def common_size(self) -> int | None:
        """Logits that experts of one tokenizer are cut to; None where they have the same number anyway."""
        return min(self.sizes) if self.same_tokens and len(set(self.sizes)) > 1 else None

    def describe(self, task: str, norm: str = "byte") -> str | None:
        """A sentence or two about how they are combined; None for experts that have everything in common."""
        how = self.how(task)
        if how == "tokens":
            if self.common_size is None:
                return None
            sizes = " and ".join(str(size) for size in sorted(set(self.sizes)))
            return (
                f"The experts share a tokenizer but have {sizes} logits: combined token by token over the first "
                f"{self.common_size}."
            )
        start = "The experts end their answers with different tokens"
        if not self.same_tokens:
            start = (
                f"The experts have different tokenizers (all know {100 * self.shared:.0f} % of the smallest vocabulary)"
            )
        if how == "options":
            text = f"{start}: each scores the options in its own tokens, and their option probabilities are combined"
            fair = "; it counts each expert's own tokens, so that scores are not of one unit: byte is fair"
            return f"{text} (length norm {norm}{fair if norm == 'mean' else ''})."
        return f"{start}: text is written from the union of their vocabularies, and each reads it in its own tokens."


def check_compatibility(experts: Sequence[ModelConfig], template: TemplateConfig | None = None) -> Compatibility:
    """Compare the tokenizers and vocabulary sizes of experts; no weights are read.

    Tokenizers are the same if vocabulary (but for special tokens that only some know), splitting, normalisation and the
    token put before a text agree, and, with ``template.chat``, the chat template.

    Raises:
        ModelError: a tokenizer or configuration is missing.
    """
    if not experts:
        raise ValueError("an ensemble needs at least one expert")
    names = tuple(cfg.path for cfg in experts)
    sizes = tuple(int(configuration(cfg).get_text_config().vocab_size) for cfg in experts) if len(experts) > 1 else (0,)
    distinct = {tokenizer_identity(cfg): cfg for cfg in reversed(experts)} if len(experts) > 1 else {"": experts[0]}
    if len(distinct) == 1:
        return Compatibility(names, sizes, same_tokens=True, same_end=True, shared=1.0)
    found = [_Tokenizer.read(cfg) for cfg in reversed(distinct.values())]
    differences: list[str] = []
    same_tokens = same_end = True
    for other in found[1:]:
        of_tokens, of_end = found[0].unlike(other, template is not None and template.chat)
        differences += of_tokens + of_end
        same_tokens &= not of_tokens
        same_end &= not of_end
    known = [each.known for each in found]
    shared = len(frozenset.intersection(*known)) / max(min(len(texts) for texts in known), 1)
    return Compatibility(names, sizes, same_tokens, same_end, shared, tuple(dict.fromkeys(differences)))


def cut_vocabulary(loaded: LoadedModel, size: int | None) -> LoadedModel:
    """The model, with its first ``size`` tokens alone: the rest is padding that no tokenizer knows; None leaves all."""
    if size is not None and vocabulary_size(loaded.model) > size:
        with quiet_transformers():
            loaded.model.resize_token_embeddings(size, mean_resizing=False)
    return loaded


@contextlib.contextmanager
def naming_expert(expert: str) -> Iterator[None]:
    """Let errors about data name the expert whose tokens they are about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{expert}: {error.message}", hint=error.hint) from error


def require_common_tokens(found: Compatibility, what: str, task: str = "generate") -> None:
    """Refuse what only experts of one vocabulary can do.

    Raises:
        ModelError: they have different ones.
    """
    if found.how(task) == "tokens":
        return
    raise ModelError(
        f"Experts with different tokenizers {what}: {' '.join(found.differences)}",
        hint="Ensemble.save and `ew2s combine` keep such an ensemble; ew2s score, generate, label and evaluate use it.",
    )


@dataclass(frozen=True, slots=True)
class _Tokenizer:
    """The properties of a tokenizer that are compared."""

    name: str
    vocabulary: dict[str, int]
    special: frozenset[str]
    known: frozenset[bytes]
    parts: dict[str, bytes]
    eos: tuple[int, str]
    bos: tuple[str, ...]
    chat: str | None

    @classmethod
    def read(cls, cfg: ModelConfig) -> _Tokenizer:
        tokenizer: Any = load_tokenizer(cfg)
        added = tokenizer.added_tokens_decoder
        special = {token.content for token in added.values() if token.special} | set(tokenizer.all_special_tokens)
        chat = getattr(tokenizer, "chat_template", None)
        return cls(
            name=cfg.path,
            vocabulary=tokenizer.get_vocab(),
            special=frozenset(special),
            known=_known(tokenizer),
            parts=_parts(tokenizer),
            eos=(int(tokenizer.eos_token_id), str(tokenizer.eos_token)),
            bos=tuple(tokenizer.convert_ids_to_tokens(beginning(tokenizer))),
            chat=None if chat is None else str(chat),
        )

    def unlike(self, other: _Tokenizer, chat: bool) -> tuple[list[str], list[str]]:
        """Why a text (or, with ``chat``, a conversation) becomes other tokens, and how the ends of answers differ."""
        pair, out = f"{self.name} and {other.name}", []
        mine, others = self.vocabulary, other.vocabulary
        only = {token for token in mine.keys() ^ others.keys() if token not in self.special | other.special}
        if only or any(others.get(token, i) != i for token, i in mine.items()):
            common = len(self.known & other.known)
            out.append(f"{pair} have {len(mine)} and {len(others)} tokens; {common} have the same text.")
        elif self.parts["model"] != other.parts["model"]:
            out.append(f"{pair} put the same tokens together differently.")
        for part, what in (("normalizer", "normalise"), ("pre_tokenizer", "split")):
            if self.parts[part] != other.parts[part]:
                out.append(f"{pair} {what} text differently.")
        if self.bos != other.bos:
            out.append(f"{_begins(self)}; {_begins(other)}.")
        if chat and self.chat != other.chat:
            out.append(f"{pair} have different chat templates.")
        same_end = self.eos == other.eos
        ends = f"{self.name} ends an answer with {self.eos[1]}, {other.name} with {other.eos[1]}."
        return out, [] if same_end else [ends]


def _begins(tokenizer: _Tokenizer) -> str:
    return f"{tokenizer.name} begins a text with {' '.join(tokenizer.bos) or 'no special token'}"


def _known(tokenizer: Any) -> frozenset[bytes]:
    """The texts of a vocabulary; the tokens' names where texts are not known."""
    try:
        return frozenset(text for text in token_texts(tokenizer).texts if text is not None)
    except ModelError:
        return frozenset(str(token).encode() for token in tokenizer.get_vocab())


def _parts(tokenizer: Any) -> dict[str, bytes]:
    """The settings of a tokenizer that decide how text is cut into tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    names = ("model", "normalizer", "pre_tokenizer")
    if backend is None:  # nothing is known of its inside but its kind
        kind = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}".encode()
        return dict.fromkeys(names, kind)
    parts = {name: getattr(backend, name) for name in names}
    return {name: b"" if part is None else bytes(part.__getstate__()) for name, part in parts.items()}


def tokenizer_identity(cfg: ModelConfig) -> str:
    """Equal for models whose tokenizers come from the same files, or files of the same content."""
    source = opened_source(cfg.path)
    if not source.has_tokenizer and source.is_adapter:
        return tokenizer_identity(base_of(cfg, source))
    folder = source.folder if source.has_tokenizer else source.ensemble
    if folder is None:
        return f"{source.name}@{cfg.revision}"
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        file = folder / name
        if file.is_file():
            digest.update(name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
