// Walker's alias method: one random number, one look-up a draw. The table is built by one sweep with two cursors,
// without stacks of light and heavy categories (after Huebschle-Schneider and Sanders, "Parallel weighted random
// sampling").
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels.hpp"
#include "large_memory.hpp"
#include "philox.hpp"
#include "threads.hpp"

namespace ensemw2s {

// Bucket b holds category b up to `threshold` (in units of 2^-32 of a bucket), above that its alias.
struct AliasBucket {
    std::uint32_t threshold = 0;
    std::uint32_t alias = 0;
};

class AliasTable {
public:
    static constexpr std::uint64_t kMaxSize = std::uint64_t{1} << 32U;

    // `total` is the sum of the weights and `heaviest` the index of a largest one.
    template <class Weight>
    AliasTable(const Weight* weights, std::size_t size, double total, std::size_t heaviest)
        : buckets_(large_array<AliasBucket>(size)), size_(size) {
        build(weights, total, static_cast<std::uint32_t>(heaviest));
    }

    // Draws [first, first + size) of a stream.
    void draw(const RandomStream& stream, std::uint64_t first, std::size_t size, std::int64_t* out) const {
        constexpr std::size_t kChunk = 256;  // far enough ahead for the buckets to be in the cache when they are needed
        std::uint64_t numbers[kChunk];
        const AliasBucket* buckets = buckets_.get();
        for (std::size_t done = 0; done < size;) {
            const std::size_t skip = (first + done) % kGroup;
            const std::size_t count = std::min(kChunk - skip, size - done);
            kernels().random_bits(stream, first + done - skip, skip + count, numbers);
            const std::uint64_t* bits = numbers + skip;
            for (std::size_t i = 0; i < count; ++i) {
                __builtin_prefetch(buckets + position(bits[i]).bucket);
            }
            for (std::size_t i = 0; i < count; ++i) {
                const Position at = position(bits[i]);
                const AliasBucket bucket = buckets[at.bucket];
                out[done + i] = static_cast<std::int64_t>(at.fraction < bucket.threshold ? at.bucket : bucket.alias);
            }
            done += count;
        }
    }

private:
    struct Position {
        std::uint64_t bucket;
        std::uint32_t fraction;
    };

    // A 64-bit number times the size: the upper 64 bits are the bucket, the next 32 the place in it.
    [[nodiscard]] Position position(std::uint64_t bits) const {
        __extension__ using Wide = unsigned __int128;
        const Wide product = Wide{bits} * size_;
        return {static_cast<std::uint64_t>(product >> 64U),
                static_cast<std::uint32_t>(static_cast<std::uint64_t>(product) >> 32U)};
    }

    // A share of a bucket in units of 2^-32; a category that is possible keeps at least one unit.
    static std::uint32_t units(double share, bool possible) {
        constexpr double kUnits = 0x1p32;
        if (!possible) {
            return 0;
        }
        const double scaled = std::clamp(share * kUnits + 0.5, 1.0, kUnits - 1.0);
        return static_cast<std::uint32_t>(scaled);
    }

    // The heavy categories (above the mean), or the light ones, in order. They are found a stretch at a time without
    // a branch on the comparison, which would be mispredicted every other time.
    template <class Weight, bool kHeavy>
    class Cursor {
    public:
        Cursor(const Weight* weights, std::size_t size, double mean) : weights_(weights), size_(size), mean_(mean) {
            refill();
        }

        [[nodiscard]] bool done() const { return at_ == found_; }
        [[nodiscard]] std::uint32_t index() const { return list_[at_]; }
        [[nodiscard]] double weight() const { return static_cast<double>(weights_[list_[at_]]); }

        void next() {
            if (++at_ == found_) {
                refill();
            }
        }

    private:
        void refill() {
            at_ = 0;
            found_ = 0;
            while (found_ == 0 && reached_ < size_) {
                const std::size_t end = size_ - reached_ < kStretch ? size_ : reached_ + kStretch;
                for (; reached_ < end; ++reached_) {
                    list_[found_] = static_cast<std::uint32_t>(reached_);
                    found_ += static_cast<std::size_t>((static_cast<double>(weights_[reached_]) > mean_) == kHeavy);
                }
            }
        }

        static constexpr std::size_t kStretch = 1024;
        const Weight* weights_;
        std::size_t size_;
        double mean_;
        std::size_t reached_ = 0;
        std::size_t at_ = 0;
        std::size_t found_ = 0;
        std::uint32_t list_[kStretch + 1];
    };

    // One cursor walks over light categories, one over heavy ones. A light category fills its own bucket up with the
    // current heavy one; when that has at most a bucket left, what is left becomes its own bucket, filled up with the
    // next heavy one. So light categories are exact to 2^-33 of a bucket, and a heavy one takes the rounding of `rest`
    // while it is the giver: at most as many roundings as it fills buckets.
    template <class Weight>
    void build(const Weight* weights, double total, std::uint32_t heaviest) {
        constexpr std::uint32_t kWhole = 0xFFFFFFFFU;
        const double mean = total / static_cast<double>(size_);
        const double scale = 1.0 / mean;
        Cursor<Weight, false> light(weights, size_, mean);
        Cursor<Weight, true> heavy(weights, size_, mean);
        std::uint32_t giver = heaviest;  // where rounding leaves no heavy category at all
        double rest = 0.0;
        if (!heavy.done()) {
            giver = heavy.index();
            rest = heavy.weight();
            heavy.next();
            buckets_[giver] = {kWhole, giver};  // stands where it is the last one
        }
        for (;;) {
            if (rest > mean && !light.done()) {
                const double weight = light.weight();
                buckets_[light.index()] = {units(weight * scale, weight > 0.0), giver};
                rest += weight - mean;
                light.next();
            } else if (!heavy.done()) {
                buckets_[giver] = {units(rest * scale, rest > 0.0), heavy.index()};
                rest += heavy.weight() - mean;
                giver = heavy.index();
                buckets_[giver] = {kWhole, giver};
                heavy.next();
            } else {
                break;
            }
        }
        for (; !light.done(); light.next()) {  // all equal, or what rounding left over
            buckets_[light.index()] = {units(light.weight() * scale, light.weight() > 0.0), giver};
        }
    }

    LargeArray<AliasBucket> buckets_;
    std::size_t size_;
};

}  // namespace ensemw2s
