// Philox4x32-10, a counter-based random number generator (Salmon, Moraes, Dror and Shaw, SC 2011), and how the samplers
// number its output. A block of four words is a function of a 128-bit counter and a 64-bit key alone, so every draw can
// be computed by itself, by any thread, on any machine, with the same result.
#pragma once

#include <array>
#include <cstdint>

namespace ensemw2s {

inline constexpr std::uint32_t kPhiloxMultiplier0 = 0xD2511F53U;
inline constexpr std::uint32_t kPhiloxMultiplier1 = 0xCD9E8D57U;
inline constexpr std::uint32_t kPhiloxKeyStep0 = 0x9E3779B9U;
inline constexpr std::uint32_t kPhiloxKeyStep1 = 0xBB67AE85U;
inline constexpr int kPhiloxRounds = 10;

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

inline PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
    for (int round = 0; round < kPhiloxRounds; ++round) {
        const std::uint64_t low = std::uint64_t{kPhiloxMultiplier0} * counter[0];
        const std::uint64_t high = std::uint64_t{kPhiloxMultiplier1} * counter[2];
        counter = {static_cast<std::uint32_t>(high >> 32U) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(high),
                   static_cast<std::uint32_t>(low >> 32U) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(low)};
        key[0] += kPhiloxKeyStep0;
        key[1] += kPhiloxKeyStep1;
    }
    return counter;
}

// What random numbers are for; its number fills the upper four bits of the counter's second word, so that uses under
// one seed and stream stay independent.
enum class Purpose : std::uint8_t { kDraw = 0, kSortedDraw = 1, kWithoutReplacement = 2 };

// An unbounded sequence of 64-bit numbers. They come in groups of 16, made of 8 blocks whose counters are
// (block low, block high | purpose << 28, stream low, stream high) with the seed as key: number r < 8 of a group is
// the first half of block r, number r >= 8 the second half of block r - 8 (low word first). This order, unlike two
// consecutive numbers a block, needs no shuffling in vector registers.
struct RandomStream {
    std::uint64_t seed = 0;
    std::uint64_t stream = 0;
    Purpose purpose = Purpose::kDraw;
};

inline constexpr std::size_t kGroup = 16;

// Numbers of a stream that may be used: beyond 2^61, block numbers would reach into the bits of the purpose.
inline constexpr std::uint64_t kMostNumbers = std::uint64_t{1} << 60U;

}  // namespace ensemw2s
