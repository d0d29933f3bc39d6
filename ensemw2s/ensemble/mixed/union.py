"""Next-token distributions of experts with different tokenizers, over the union of their vocabularies.

The tokens of two vocabularies are the same where they stand for the same bytes; all tokens that end an answer are one.
Other special tokens have no text and are masked, as are tokens that would make the answer invalid UTF-8; an expert's
distribution is renormalised over the rest.

Limits: tokens of different length compete for one place. If one expert would go on with ``unhappy``
and another with ``un`` and then ``happy``, the mixture keeps ``un`` and ``unhappy`` apart though one begins the other:
probabilities of texts that share a beginning are not added up, and an expert with short tokens, which is surer of each,
has more say. After ``un`` the first expert reads a word that stops in a place where its own tokens never stop.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

import torch
from torch import Tensor

from ensemw2s.ensemble.mixed.token_texts import TokenTexts
from ensemw2s.models.inference.generation import not_finite

#: The key of end-of-sequence; no other token stands for no bytes.
END = b""


def split_text(data: bytes) -> tuple[str, bytes] | None:
    """Whole characters and the bytes of a last one that is not complete; None for what can never become UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(data)
    except UnicodeDecodeError:
        return None
    return text, decoder.getstate()[0]


def settled(pieces: Sequence[bytes]) -> tuple[str, list[bytes]]:
    """An answer as text that can be tokenised anew, and the last texts that have to stay as they are.

    Bytes of a character that is not complete are no text yet. White space at the end is cut into tokens by what follows
    it: two line breaks are one token of most vocabularies, but two tokens where a word comes next.
    """
    data = b"".join(pieces)
    text, tail = split_text(data) or ("", data)
    open_bytes = len(tail) or len(text.encode()) - len(text.rstrip().encode())
    first = len(pieces)
    while first and (open_bytes > 0 or (split_text(b"".join(pieces[:first])) or ("", b"?"))[1]):
        first -= 1
        open_bytes -= len(pieces[first])
    return b"".join(pieces[:first]).decode(), list(pieces[first:])


class Union:
    """The texts of all experts' tokens, each once, in the order of the first expert's ids, then the next one's.

    Attributes:
        keys: text of every member; :data:`END` is the end of an answer.
    """

    def __init__(self, vocabularies: Sequence[TokenTexts]) -> None:
        places: dict[bytes, int] = {}
        rows: list[list[int]] = []
        for vocabulary in vocabularies:
            named = [END if i in vocabulary.end_ids else text for i, text in enumerate(vocabulary.texts)]
            rows.append([-1 if text is None else places.setdefault(text, len(places)) for text in named])
        self.keys = list(places)
        self.end = places[END]
        # The last place collects what has no text.
        self._maps = [torch.tensor([len(places) if place < 0 else place for place in row]) for row in rows]
        self._first = torch.tensor([split_text(key) is not None for key in self.keys])
        self._continuing = [i for i, key in enumerate(self.keys) if key and 0x80 <= key[0] < 0xC0]

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.keys)

    def allowed(self, tail: bytes) -> Tensor:
        """Mask of the texts that can follow, boolean ``[U]``.

        Args:
            tail: the bytes of a character that is not complete; an answer does not end within one.
        """
        if not tail:
            return self._first
        mask = torch.zeros(len(self), dtype=torch.bool)
        good = [i for i in self._continuing if split_text(tail + self.keys[i]) is not None]
        mask[torch.tensor(good, dtype=torch.int64)] = True
        return mask

    def spread(self, expert: int, logits: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """An expert's distributions over the union.

        Args:
            expert: its number.
            logits: ``[B, V]``.
            allowed: boolean ``[B, U]``.

        Returns:
            Log-probabilities, float64 ``[B, U]``, −inf for what it does not know or what is not allowed; and boolean
            ``[B]``, whether it knows anything that is allowed (else all are −inf).

        Raises:
            RunFailedError: the logits are not finite.
        """
        places, values = self._maps[expert], logits.to("cpu", torch.float64)
        if bool(values.isnan().any() | (values == torch.inf).any()):
            raise not_finite()
        places = places[: values.shape[1]]
        with_text = torch.cat([allowed, torch.zeros(len(allowed), 1, dtype=torch.bool)], dim=1)[:, places]
        values = values[:, : len(places)].masked_fill(~with_text, -torch.inf)
        knows = (values > -torch.inf).any(dim=1)
        mass = torch.zeros(len(values), len(self) + 1, dtype=torch.float64)
        mass.index_add_(1, places, values.softmax(dim=1).masked_fill(~knows[:, None], 0.0))
        return mass[:, :-1].log(), knows


def combine_texts(parts: Tensor, weights: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Combine distributions over one union.

    Args:
        parts: log-probabilities of each expert, float64 ``[K, B, U]``.
        weights: their weights in each row, float64 ``[K, B]``, not normalised; 0 for an expert that has no say.
        rule: ``mixture``; ``product``, over the texts that all know (the mixture where there are none); ``vote``.

    Returns:
        Log-probabilities by the rule, and those that say how sure it is (``vote``: the mixture's); float64 ``[B, U]``.
    """
    shares = (weights / weights.sum(dim=0))[..., None]
    mixture = torch.logsumexp(parts + shares.log(), dim=0)
    if rule == "vote":
        votes = torch.zeros_like(mixture)
        for part, share in zip(parts, shares, strict=True):
            votes.scatter_add_(1, part.argmax(dim=1, keepdim=True), share)
        return votes.log(), mixture
    if rule == "product":
        product = torch.where(shares > 0.0, shares * parts, 0.0).sum(dim=0)
        some = (product > -torch.inf).any(dim=1, keepdim=True)
        product = torch.where(some, product.log_softmax(dim=1), mixture)
        return product, product
    return mixture, mixture


def most_probable(distribution: Tensor, mixture: Tensor) -> Tensor:
    """The arg-max of each row; equal ones (to 1e-6, as shares of votes are compared) are ordered by the mixture.

    Args:
        distribution: log-probabilities ``[B, U]``.
        mixture: the same tensor, or that which orders equal ones.

    Returns:
        int64 ``[B]``.
    """
    if distribution is mixture:
        return distribution.argmax(dim=1)
    shares = distribution.exp()
    tied = shares >= shares.amax(dim=1, keepdim=True) - 1e-6
    return mixture.masked_fill(~tied, -torch.inf).argmax(dim=1)
