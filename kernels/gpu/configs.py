"""Tile widths and warps of the Triton kernels, kept in the repository.

The width of a tile fixes the order in which sums are formed, so it is a function of the problem alone and never of a
measurement at run time: the same call gives the same bits in every process. ``benchmarks/gpu.py --tune`` times
:data:`CANDIDATES` on a device and prints the rows to put into :data:`TABLE`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Config:
    """Launch configuration of the kernels of one problem."""

    block: int
    """Tokens in a tile; a power of two."""
    tile_warps: int
    """Warps of a program that reads a tile."""

    @property
    def row_warps(self) -> int:
        """Warps of a program that finishes a row: what it holds of a tile must fit its registers."""
        return max(4, min(self.block // 256, self.tile_warps), self.block // 512)

    @property
    def select_warps(self) -> int:
        """Warps of a program that selects the most probable tokens of a row."""
        return max(4, self.block // 512)


CANDIDATES = (
    Config(1024, 4),
    Config(2048, 4),
    Config(2048, 8),
    Config(4096, 4),
    Config(4096, 8),
    Config(8192, 8),
)

# (bytes of a logit, K up to, V up to) -> Config; the first row that fits is taken
TABLE: tuple[tuple[tuple[int, int, int], Config], ...] = (
    ((2, 8, 8_192), Config(1024, 4)),
    ((2, 8, 65_536), Config(2048, 4)),
    ((2, 8, 1 << 31), Config(4096, 8)),
    ((4, 8, 16_384), Config(1024, 4)),
    ((4, 5, 1 << 31), Config(2048, 8)),
    ((4, 8, 1 << 31), Config(2048, 4)),
)
WIDEST = Config(2048, 8)
MOST_TILES = 1024


def choose(item_bytes: int, experts: int, vocabulary: int) -> Config:
    """The configuration for logits of ``item_bytes`` bytes, K experts and V tokens.

    More experts than the table knows take :data:`WIDEST`; what would be more than :data:`MOST_TILES` tiles, wider ones.
    """
    config = WIDEST
    for (size, most_experts, most_tokens), entry in TABLE:
        if item_bytes <= size and experts <= most_experts and vocabulary <= most_tokens:
            config = entry
            break
    block = config.block
    while -(-vocabulary // block) > MOST_TILES:
        block *= 2
    return Config(block, max(config.tile_warps, min(block // 1024, 16)))
