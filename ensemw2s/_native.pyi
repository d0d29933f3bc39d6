"""The compiled extension (``csrc/``): weighted sampling, token-weight arithmetic and combination of experts.

Nothing here depends on the number of threads, nor sampling and weights on the instruction set: equal arguments give
equal bits. ``threads`` is 0 for the default number. Errors in values, shapes and data types are ``ValueError``; what is
no array, number, integer or boolean at all is a ``TypeError``.

Threads are OpenMP's, which torch uses too, where the compiler has them. A process forked after the module was loaded
(``os.fork``, a ``DataLoader`` on Linux) has none of its parent's, and works with threads of its own instead. Only a
fork while another thread is inside a call is not safe, as for any library.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

_Float: TypeAlias = npt.NDArray[np.float64] | npt.NDArray[np.float32]
_Logits: TypeAlias = Sequence[npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.int16]]
_Flags: TypeAlias = npt.NDArray[np.uint8] | npt.NDArray[np.bool_]

class _BuildInfo(TypedDict):
    compiler: str
    openmp: bool
    threads: int
    simd: str
    simd_available: list[str]
    sanitize: str

class _UpdateResult(TypedDict):
    total_before_norm: float
    sum: float
    n_eff: float
    max: float
    segment_sums: npt.NDArray[np.float64] | None

class _ErrorSums(TypedDict):
    total: float
    wrong: float
    squares: float
    binary: bool

def build_info() -> _BuildInfo:
    """How the extension was built and runs.

    ``simd`` is the instruction set in use; the environment variable ``ENSEMW2S_SIMD`` chooses another one of
    ``simd_available`` (an ``ImportError`` or ``ValueError`` at import where it cannot run).
    """

def philox4x32(counter: npt.NDArray[np.uint32], key: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Ten rounds of Philox4x32.

    Args:
        counter: uint32 ``[n, 4]``, least significant word first.
        key: uint32 ``[n, 2]``, or ``[2]`` for one key throughout.

    Returns:
        uint32 ``[n, 4]``.
    """

class WeightedSampler:
    """Draws categories in proportion to weights; any number of categories (``2**32`` without ``sorted``).

    Args:
        weights: float64 or float32 ``[n]``, C-contiguous, memory maps included. They are read in place and must not
            change while the sampler is in use.
        threads: number of threads.

    Raises:
        ValueError: a weight is negative, NaN or infinite (the first is named), all are 0, or their sum overflows.
    """

    def __init__(self, weights: _Float, *, threads: int = 0) -> None: ...
    @property
    def size(self) -> int:
        """Number of categories."""

    @property
    def positive(self) -> int:
        """Number of weights above 0."""

    @property
    def total(self) -> float:
        """Sum of the weights."""

    def probability(self, i: int) -> float:
        """Weight of category ``i`` divided by the total; ``IndexError`` outside ``[0, size)``."""

    def sample(
        self, n: int, seed: int, stream: int = 0, *, replacement: bool = True, sorted: bool = False, start: int = 0
    ) -> npt.NDArray[np.int64]:
        """Draw ``n`` categories, int64 ``[n]``.

        With replacement, draw ``k`` depends on ``(seed, stream, k)`` alone, and ``start`` leaves out the draws before
        it. Probabilities are right to ``2**-32 / size``, and every category of positive weight has at least that.
        ``sorted=True`` gives draws in increasing order, without building a table; these are other draws, and depend
        on ``n`` too. Sums of weights are float64, so a weight below ``2**-53`` of the sum may never be drawn there.
        Without replacement, categories come in the order in which they are drawn (``sorted=True``: in increasing
        order), and a smaller sample is the beginning of a larger one; weights of any size have their place in it.

        Args:
            n: number of draws, ``n + start`` at most ``2**60``: beyond, a stream would repeat others.
            seed: in ``[0, 2**64)``.
            stream: in ``[0, 2**64)``; streams of one seed are independent.
            replacement: whether a category can be drawn again.
            sorted: whether draws come in increasing order.
            start: number of the first draw; 0 where draws are sorted or without replacement.

        Raises:
            ValueError: ``n`` without replacement exceeds the number of positive weights, or an argument is out of its
                range.
            TypeError: an argument is no integer of Python or numpy (booleans are none), a flag no boolean.
        """

def weighted_error(weights: _Float, wrong: _Float | _Flags | npt.NDArray[Any], *, threads: int = 0) -> _ErrorSums:
    """Sums for the weighted error of an expert, in one sweep.

    Args:
        weights: float64 or float32 ``[N]``, C-contiguous, memory maps included.
        wrong: ``[N]``: float64 or float32 in ``[0, 1]``, or uint8 or bool.
        threads: number of threads.

    Returns:
        ``total``, the sum of the weights; ``wrong``, of ``weights_j · wrong_j``; ``squares``, of ``weights_j²``; and
        ``binary``: ``wrong`` is 0 or 1 everywhere.

    Raises:
        ValueError: a weight is negative, NaN or infinite, or ``wrong`` is outside ``[0, 1]`` (the first is named).
    """

def boost_update(
    weights: _Float,
    wrong: _Float | _Flags | npt.NDArray[Any],
    alpha: float,
    cap: float | None = None,
    *,
    total: float | None = None,
    offsets: npt.NDArray[np.int64] | None = None,
    threads: int = 0,
) -> _UpdateResult:
    """Grow weights in place: ``weights_j ← weights_j · exp(alpha · wrong_j)``, divided by their sum.

    That sum takes a sweep of its own that reads weights and ``wrong``. A second sweep reads both again and writes the
    weights; sums over segments of the new weights are formed in passing.

    Args:
        weights: float64 or float32 ``[N]``, C-contiguous and writeable, memory maps included.
        wrong: ``[N]``: float64 or float32 in ``[0, 1]``, or uint8 or bool.
        alpha: the exponent's factor, shrinkage included; any finite number. Where products of it or of the weights
            would leave the range of float64, logarithms are taken instead; new weights below the least number of
            their type are 0.
        cap: no weight exceeds ``cap / N`` afterwards (``cap >= 1``): the excess goes to the weights below in
            proportion, until none exceeds it.
        total: the sum of ``weights_j · exp(alpha · wrong_j)`` where it is known, which spares the first sweep. Any
            positive number will do: the new weights then sum to ``sum`` instead of 1, and are the distribution up to
            that factor (one that stays near 1 comes from passing each update the ``sum`` that the last one returned).
            It is not used with a ``cap``, or where it or ``alpha`` is extreme.
        offsets: int64 ``[n + 1]``, as in :func:`segment_sum`.
        threads: number of threads.

    Returns:
        ``total_before_norm``, the sum of ``weights_j · exp(alpha · wrong_j)`` (inf where that overflows); ``sum``, of
        the new weights: 1 to rounding, unless ``total`` says otherwise; ``n_eff``, ``sum²`` / the sum of the squares of
        the new weights; ``max``, the largest new weight; ``segment_sums`` of the new weights, float64 ``[n]`` and good
        to two roundings, or None.

    Raises:
        ValueError: a weight that is negative, NaN or infinite, weights that are all 0, ``wrong`` outside ``[0, 1]``, an
            ``alpha`` that is not finite, a cap that the positive weights cannot meet, a ``total`` far from the sum,
            or arrays that share memory with ``weights``. The weights are then as they were, except with ``total``,
            where they may have been replaced.
    """

def segment_sum(
    values: _Float | _Flags, offsets: npt.NDArray[np.int64], *, threads: int = 0
) -> npt.NDArray[np.float64]:
    """Compensated sums of ``values[offsets[s]:offsets[s + 1]]``.

    Args:
        values: float64, float32, uint8 or bool ``[N]``, C-contiguous, memory maps included.
        offsets: int64 ``[n + 1]``, rising, in ``[0, N]``.
        threads: number of threads.

    Returns:
        float64 ``[n]``; an empty segment gives 0, NaN and infinities go where they would in a plain sum.
    """

def combine_into(
    logits: _Logits,
    weights: Sequence[float],
    *,
    rule: str,
    temperature: float,
    targets: npt.NDArray[np.int64] | None,
    results: Mapping[str, npt.NDArray[Any]],
    threads: int = 0,
) -> None:
    """Combine the next-token distributions of K experts (see ``ensemw2s.kernels.combine``).

    Args:
        logits: K arrays ``[N, V]``: float32, float16, or bfloat16 seen as int16; any strides. Read in place.
        weights: K numbers that sum to 1; 0 leaves an expert out.
        rule: ``mixture``, ``product`` or ``vote``.
        temperature: positive and finite.
        targets: int64 ``[N]``, or None.
        results: C-contiguous arrays to fill, by the names of the fields of ``CombineResult`` and of their types and
            shapes, which share memory with nothing else. ``argmax``, ``logprob``, ``expert_argmax`` and ``logsumexp``
            are needed, and the two about targets where these are given.
        threads: number of threads.
    """

def sample_tokens(
    logits: _Logits,
    weights: Sequence[float],
    *,
    rule: str,
    temperature: float,
    uniforms: npt.NDArray[np.float64],
    top_k: int | None = None,
    top_p: float | None = None,
    threads: int = 0,
) -> npt.NDArray[np.int64]:
    """Draw a token for each row (see ``ensemw2s.kernels.sample``).

    Args:
        logits: as in :func:`combine_into`.
        weights: as in :func:`combine_into`.
        rule: as in :func:`combine_into`.
        temperature: as in :func:`combine_into`.
        uniforms: float64 ``[N]`` in ``[0, 1)``, at which the cumulative probabilities are inverted.
        top_k: only the most probable tokens, in ``[1, V]``.
        top_p: the smallest set of most probable tokens with at least this probability, in ``(0, 1]``.
        threads: number of threads.

    Returns:
        int64 ``[N]``; −1 in undefined rows.
    """
