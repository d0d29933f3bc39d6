// Draws without replacement: category i gets the key E_i / w_i with E_i exponential, and the categories of the smallest
// keys, in the order of their keys, are the draws (Efraimidis and Spirakis 2006; the same as drawing one after the
// other from what is left). So the first m of n draws are the draws of a smaller sample. Keys are not stored: a
// histogram of some of them tells which are small enough to be collected and sorted when all are computed.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "kernels.hpp"
#include "keyed_sort.hpp"
#include "philox.hpp"
#include "threads.hpp"

namespace ensemw2s {

// Puts different numbers in [0, size) in order: by a bit for each number that could be there, unless there are few.
inline void sort_distinct(std::span<std::int64_t> values, std::size_t size) {
    constexpr std::size_t kBits = 64;
    if (values.size() < size / kBits) {
        std::ranges::sort(values);
        return;
    }
    std::vector<std::uint64_t> there(size / kBits + 1, 0);
    for (const std::int64_t value : values) {
        there[static_cast<std::size_t>(value) / kBits] |= std::uint64_t{1} << (static_cast<std::size_t>(value) % kBits);
    }
    std::size_t count = 0;
    for (std::size_t word = 0; word < there.size(); ++word) {
        for (std::uint64_t left = there[word]; left != 0; left &= left - 1) {
            values[count++] = static_cast<std::int64_t>(word * kBits) + std::countr_zero(left);
        }
    }
}

// Stands in for WeightKernels::keys where E / w could leave the range of double: with E / w = 2^t f and f in [1/2, 1)
// gives t + 2 f, moved into the positive numbers, which keeps 42 digits of f.
template <class Weight>
void wide_keys(const RandomStream& stream, std::size_t first, const Weight* weights, std::size_t size, double* keys) {
    constexpr int kMoved = 1200;  // t is at least -53 - 1024
    kernels().exponentials(stream, first, size, keys);
    for (std::size_t i = 0; i < size; ++i) {
        if (!(weights[i] > 0)) {
            keys[i] = std::numeric_limits<double>::quiet_NaN();
            continue;
        }
        int exponent = 0;
        int more = 0;
        const double weight = std::frexp(static_cast<double>(weights[i]), &exponent);
        const double fraction = std::frexp(keys[i] / weight, &more);
        keys[i] = static_cast<double>(kMoved + more - exponent) + 2.0 * fraction;
    }
}

template <class Weight>
class WithoutReplacement {
public:
    WithoutReplacement(const WeightKernels<Weight>& kernels, const Weight* weights, std::size_t size,
                       const RandomStream& stream, int threads)
        : kernels_(kernels), weights_(weights), size_(size), stream_(stream), threads_(threads) {}

    // Fills `out` with different categories of positive weight, in the order in which they are drawn. There must be
    // enough of them.
    void draw(std::span<std::int64_t> out) const {
        if (out.empty()) {
            return;
        }
        if (!draw(out, likely_keys(out.size())) && !draw(out, counted_keys(out.size()))) {
            throw std::invalid_argument("weights changed while they were read");
        }
    }

private:
    static constexpr std::size_t kChunk = 1024;

    // Which keys are small enough: those in bins up to `last`, about `expected` in number.
    struct SmallKeys {
        KeyRanks ranks;
        std::size_t last;
        std::size_t expected;
    };

    // Calls visit(first, keys) for every `stride`-th chunk of categories of one task.
    template <class Visit>
    void visit_keys(std::size_t task, std::size_t stride, const Visit& visit) const {
        double keys[kChunk];
        const std::size_t end = std::min(size_, (task + 1) * stretch());
        for (std::size_t at = task * stretch(); at < end; at += kChunk) {
            if (at / kChunk % stride != 0) {
                continue;
            }
            const std::size_t count = std::min(kChunk, end - at);
            kernels_.keys(stream_, at, weights_ + at, count, keys);
            visit(at, std::span<const double>(keys, count));
        }
    }

    // Categories in a task: few tasks, since each has a histogram of its own.
    [[nodiscard]] std::size_t stretch() const {
        constexpr std::size_t kTasks = 64;
        return std::max(kBlock, block_count(size_, kTasks * kChunk) * kChunk);
    }

    // How many keys each bin holds, in one of `stride` chunks.
    [[nodiscard]] KeyHistogram histogram(std::size_t stride) const {
        constexpr std::size_t kAllBins = 0x8000;  // those of NaN included
        KeyHistogram out(kKeyBins, 0);
        std::mutex mutex;
        parallel_for(block_count(size_, stretch()), threads_, [&](std::size_t task) {
            KeyHistogram counts(kAllBins, 0);
            visit_keys(task, stride, [&](std::size_t, std::span<const double> keys) {
                for (const double key : keys) {
                    ++counts[key_bin(key)];
                }
            });
            const std::scoped_lock lock(mutex);
            for (std::size_t bin = 0; bin < kKeyBins; ++bin) {
                out[bin] += counts[bin];
            }
        });
        return out;
    }

    // `wanted` keys, or all where there are not as many, reach up to the last of the bins. Counts are of one in
    // `stride`.
    static SmallKeys reached(const KeyHistogram& counts, std::size_t wanted, std::size_t stride) {
        std::size_t bin = 0;
        std::size_t seen = counts[0];
        while (seen < wanted && bin + 1 < kKeyBins) {
            seen += counts[++bin];
        }
        return {KeyRanks(counts, bin), bin, seen * stride};
    }

    // Keys of which almost certainly there are enough, from a part of them: six standard deviations more than expected.
    // Only time depends on it, not what is drawn.
    [[nodiscard]] SmallKeys likely_keys(std::size_t wanted) const {
        constexpr std::size_t kLarge = 1U << 20U;
        constexpr std::size_t kStride = 16;
        if (size_ < kLarge) {
            return counted_keys(wanted);
        }
        const double expected = static_cast<double>(wanted) / static_cast<double>(kStride);
        const double safe = expected + 6.0 * std::sqrt(expected) + 16.0;
        return reached(histogram(kStride), static_cast<std::size_t>(safe), kStride);
    }

    [[nodiscard]] SmallKeys counted_keys(std::size_t wanted) const { return reached(histogram(1), wanted, 1); }

    // Returns whether there were enough small keys.
    [[nodiscard]] bool draw(std::span<std::int64_t> out, SmallKeys small) const {
        const std::size_t tasks = block_count(size_, stretch());
        const double limit = last_of(small.last);
        KeyedSort sort(std::move(small.ranks), small.expected, tasks);
        parallel_for(tasks, threads_, [&](std::size_t task) {
            visit_keys(task, 1, [&](std::size_t first, std::span<const double> keys) {
                std::uint32_t indices[kChunk + kSumLanes];
                KeyedCategory some[kChunk];
                const std::size_t count = ensemw2s::kernels().select_le(keys.data(), keys.size(), limit, indices);
                for (std::size_t i = 0; i < count; ++i) {
                    some[i] = {keys[indices[i]], first + indices[i]};
                }
                sort.add(task, std::span<const KeyedCategory>(some, count));
            });
        });
        if (sort.size() < out.size()) {
            return false;
        }
        sort.first(out, threads_);
        return true;
    }

    const WeightKernels<Weight>& kernels_;
    const Weight* weights_;
    std::size_t size_;
    RandomStream stream_;
    int threads_;
};

}  // namespace ensemw2s
