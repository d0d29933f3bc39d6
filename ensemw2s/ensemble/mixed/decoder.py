"""Decoding from the union of vocabularies, all experts step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.config.method import DecodingConfig
from ensemw2s.ensemble.mixed.reader import Prompt, Reader
from ensemw2s.ensemble.mixed.union import Union, combine_texts, most_probable, split_text
from ensemw2s.kernels import sample
from ensemw2s.models.inference.batches import Sizes, plan_batches, run_batches
from ensemw2s.models.inference.decode import Generation
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.sink import EventSink

#: Most probabilities in memory for a batch, all experts together (2**24 float64 are 128 MiB).
_MAX_PROBABILITIES = 2**24


@dataclass(frozen=True, slots=True)
class UnionAnswer:
    """One answer."""

    text: str
    """All of it; an incomplete last character is U+FFFD."""
    pieces: list[bytes]
    """The texts that were chosen, in order."""
    token_ids: list[int]
    """The answer in the tokens of the first expert that takes part."""
    generation: Generation
    """Log-probabilities of the pieces, and of the end if it ended; ``token_ids`` are places in the union."""


@dataclass(slots=True)
class _Row:
    """An answer while it is written."""

    number: int
    pieces: list[bytes] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    runner_up: list[float] = field(default_factory=list)
    ended: bool = False
    stuck: bool = False

    def answer(self, token_ids: list[int]) -> UnionAnswer:
        runner_up = np.array(self.runner_up, dtype=np.float32) if self.runner_up else None
        logprobs = np.array(self.logprobs, dtype=np.float32)
        generation = Generation(np.array(self.places, dtype=np.int32), logprobs, self.ended, runner_up)
        return UnionAnswer(b"".join(self.pieces).decode("utf-8", errors="replace"), self.pieces, token_ids, generation)


@dataclass(slots=True)
class UnionDecoder:
    """Writes answers with the experts of positive weight; ``max_new_tokens`` of ``decoding`` counts chosen texts."""

    readers: Sequence[Reader]
    alphas: Sequence[float]
    decoding: DecodingConfig
    rule: str
    seed: int
    backend: str = "auto"
    union: Union = field(init=False)

    def __post_init__(self) -> None:
        self.union = Union([reader.texts for reader in self.readers])

    def decode_all(
        self, prompts: Sequence[Sequence[Prompt]], batch_tokens: int, sink: EventSink, *, first: int = 0
    ) -> list[UnionAnswer]:
        """Write all answers, in batches of at most ``batch_tokens`` padded tokens; ``prompts`` are each expert's.

        ``first`` is the number of the first prompt, where these are some of more.
        """
        count = len(prompts[0])
        lengths = np.array([max(len(own[i][1]) for own in prompts) for i in range(count)], dtype=np.int64)
        one = np.ones(count, dtype=np.int64)
        sizes = Sizes(lengths, one * self.decoding.max_new_tokens, one, one)
        answers: dict[int, UnionAnswer] = {}

        def work(batch: NDArray[np.int64]) -> None:
            found = self.decode((batch + first).tolist(), [[own[i] for i in batch] for own in prompts])
            answers.update(zip(batch.tolist(), found, strict=True))
            sink.progress("generate", len(answers), count)

        def batches(items: NDArray[np.integer[Any]], scale: float) -> list[NDArray[np.int64]]:
            rows = max(1, int(_MAX_PROBABILITIES * scale / (len(self.readers) * len(self.union))))
            return plan_batches(sizes, items, int(batch_tokens * scale), rows)

        with quiet_transformers():
            run_batches(batches, np.arange(count), work, device=self.readers[0].loaded.device, name="generate")
        return [answers[number] for number in range(count)]

    @torch.inference_mode()
    def decode(self, numbers: Sequence[int], prompts: Sequence[Sequence[Prompt]]) -> list[UnionAnswer]:
        """Write the answers of one batch.

        An expert that cannot read an answer so far (bytes of an incomplete character that it has no tokens for) has
        weight 0 until it can. An answer stops where no expert can go on, or any expert's context is full.

        Args:
            numbers: of the prompts; a sampled text depends on the seed, this and its place.
            prompts: for each expert the prompts of the batch.
        """
        for reader, own in zip(self.readers, prompts, strict=True):
            reader.begin(own)
        rows = [_Row(number) for number in numbers]
        out: dict[int, UnionAnswer] = {}
        alive = rows
        for step in range(self.decoding.max_new_tokens + 1):
            sequences = [[reader.ids(i, row.pieces) for i, row in enumerate(alive)] for reader in self.readers]
            last = step == self.decoding.max_new_tokens
            going = [
                i for i, row in enumerate(alive) if not (last or row.ended or row.stuck or self._is_full(sequences, i))
            ]
            for i in set(range(len(alive))) - set(going):
                out[alive[i].number] = alive[i].answer(self.readers[0].answer_ids(i, alive[i].pieces) or [])
            if not going:
                break
            for reader in self.readers:
                reader.keep(going)
            alive = [alive[i] for i in going]
            self._step(alive, [[own[i] for i in going] for own in sequences], step)
        return [out[number] for number in numbers]

    def _is_full(self, sequences: list[list[list[int] | None]], row: int) -> bool:
        """Whether no expert can read an answer, or it exceeds the context of one."""
        found = [(reader.limit, own[row]) for reader, own in zip(self.readers, sequences, strict=True)]
        full = any(limit is not None and ids is not None and len(ids) > limit for limit, ids in found)
        return full or all(ids is None for _, ids in found)

    def _step(self, rows: list[_Row], sequences: list[list[list[int] | None]], step: int) -> None:
        """Choose the next text of every row."""
        tails = [(split_text(b"".join(row.pieces)) or ("", b""))[1] for row in rows]
        allowed = torch.stack([self.union.allowed(tail) for tail in tails])
        parts, shares = [], []
        for k, (reader, own, alpha) in enumerate(zip(self.readers, sequences, self.alphas, strict=True)):
            readable = torch.tensor([ids is not None for ids in own])
            part, knows = self.union.spread(k, reader.logits(own), allowed)
            parts.append(part)
            shares.append(alpha * (readable & knows).double())
        weights = torch.stack(shares)
        stuck = weights.sum(dim=0) == 0.0
        weights[0, stuck], parts[0][stuck, self.union.end] = 1.0, 0.0  # so that there is something to choose from
        distribution, mixture = combine_texts(torch.stack(parts), weights, self.rule)
        index = torch.tensor([row.number * self.decoding.max_new_tokens + step for row in rows])
        chosen = self._choose(distribution, mixture, index)
        logprobs = mixture.gather(1, chosen[:, None])[:, 0]
        runner_up = mixture.scatter(1, chosen[:, None], -torch.inf).amax(dim=1)
        found = zip(rows, stuck.tolist(), chosen.tolist(), logprobs.tolist(), runner_up.tolist(), strict=True)
        for row, nobody, place, logprob, rival in found:
            row.stuck = nobody
            if nobody:
                continue
            row.logprobs.append(logprob)
            row.runner_up.append(rival)
            row.ended = place == self.union.end
            if not row.ended:
                row.places.append(place)
                row.pieces.append(self.union.keys[place])

    def _choose(self, distribution: Tensor, mixture: Tensor, index: Tensor) -> Tensor:
        if self.decoding.method == "greedy":
            return most_probable(distribution, mixture)
        return sample(
            [distribution.float()],
            [1.0],
            seed=self.seed,
            temperature=self.decoding.temperature,
            top_k=self.decoding.top_k,
            top_p=self.decoding.top_p,
            index=index,
            backend=self.backend,
        )
