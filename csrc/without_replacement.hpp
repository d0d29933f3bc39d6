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
#include <functional>
#include <mutex>
#include <span>
#include <stdexcept>
#include <vector>

#include "kernels.hpp"
#include "philox.hpp"
#include "threads.hpp"

namespace ensemw2s {

struct KeyedCategory {
    double key = 0.0;
    std::size_t category = 0;

    friend bool operator<(const KeyedCategory& a, const KeyedCategory& b) {
        return a.key < b.key || (a.key == b.key && a.category < b.category);
    }
};

// A key's exponent and first four binary digits, which order keys coarsely. NaN (weight 0) comes after infinity.
[[nodiscard]] inline std::size_t key_bin(double key) {
    return std::bit_cast<std::uint64_t>(key) >> 48U;
}
inline constexpr std::size_t kKeyBins = 0x7FF1;  // the last bin is infinity's

// Sorts by spreading over buckets of equal width, which hold a few each, and sorting these.
inline void sort_keyed(std::vector<KeyedCategory>& items, int threads) {
    constexpr std::size_t kPerBucket = 8;
    constexpr std::size_t kSmall = 4096;
    if (items.size() < kSmall) {
        std::ranges::sort(items, std::less<>());
        return;
    }
    const std::size_t buckets = items.size() / kPerBucket;
    double top = 0.0;
    for (const KeyedCategory& item : items) {
        top = item.key > top && item.key < HUGE_VAL ? item.key : top;
    }
    const double scale = static_cast<double>(buckets) / top;
    const auto bucket = [&](double key) {
        return static_cast<std::size_t>(std::min(key * scale, static_cast<double>(buckets - 1)));
    };
    std::vector<std::size_t> starts(buckets + 1, 0);
    for (const KeyedCategory& item : items) {
        ++starts[bucket(item.key) + 1];
    }
    for (std::size_t b = 0; b < buckets; ++b) {
        starts[b + 1] += starts[b];
    }
    std::vector<std::size_t> places(starts.begin(), starts.end() - 1);
    std::vector<KeyedCategory> spread(items.size());
    for (const KeyedCategory& item : items) {
        spread[places[bucket(item.key)]++] = item;
    }
    items.swap(spread);
    constexpr std::size_t kPerTask = 2048;
    parallel_for(block_count(buckets, kPerTask), threads, [&](std::size_t task) {
        const std::size_t end = std::min(buckets, (task + 1) * kPerTask);
        for (std::size_t b = task * kPerTask; b < end; ++b) {
            std::sort(items.begin() + static_cast<std::ptrdiff_t>(starts[b]),
                      items.begin() + static_cast<std::ptrdiff_t>(starts[b + 1]));
        }
    });
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
        std::vector<KeyedCategory> items = collect(likely_bin(out.size()));
        if (items.size() < out.size()) {
            items = collect(bin_reached(histogram(1), out.size()));
        }
        if (items.size() < out.size()) {
            throw std::invalid_argument("weights changed while they were read");
        }
        sort_keyed(items, threads_);
        for (std::size_t i = 0; i < out.size(); ++i) {
            out[i] = static_cast<std::int64_t>(items[i].category);
        }
    }

private:
    using Histogram = std::vector<std::size_t>;
    static constexpr std::size_t kChunk = 1024;

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
    [[nodiscard]] Histogram histogram(std::size_t stride) const {
        constexpr std::size_t kAllBins = 0x8000;  // those of NaN included
        Histogram out(kKeyBins, 0);
        std::mutex mutex;
        parallel_for(block_count(size_, stretch()), threads_, [&](std::size_t task) {
            Histogram counts(kAllBins, 0);
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

    // The bin that `wanted` keys reach up to, the last one where there are not as many.
    static std::size_t bin_reached(const Histogram& counts, std::size_t wanted) {
        std::size_t bin = 0;
        std::size_t seen = counts[0];
        while (seen < wanted && bin + 1 < kKeyBins) {
            seen += counts[++bin];
        }
        return bin;
    }

    // A bin that almost certainly reaches far enough, from a part of the keys: six standard deviations more than
    // expected. Only time depends on it, not what is drawn.
    [[nodiscard]] std::size_t likely_bin(std::size_t wanted) const {
        constexpr std::size_t kLarge = 1U << 20U;
        constexpr std::size_t kStride = 16;
        if (size_ < kLarge) {
            return bin_reached(histogram(1), wanted);
        }
        const double expected = static_cast<double>(wanted) / static_cast<double>(kStride);
        return bin_reached(histogram(kStride), static_cast<std::size_t>(expected + 6.0 * std::sqrt(expected) + 16.0));
    }

    // The categories whose keys lie in bins up to `last`, in no particular order.
    [[nodiscard]] std::vector<KeyedCategory> collect(std::size_t last) const {
        std::vector<KeyedCategory> out;
        std::mutex mutex;
        parallel_for(block_count(size_, stretch()), threads_, [&](std::size_t task) {
            std::vector<KeyedCategory> found;
            visit_keys(task, 1, [&](std::size_t first, std::span<const double> keys) {
                KeyedCategory some[kChunk + 1];
                std::size_t count = 0;
                for (std::size_t i = 0; i < keys.size(); ++i) {
                    some[count] = {keys[i], first + i};
                    count += static_cast<std::size_t>(key_bin(keys[i]) <= last);
                }
                found.insert(found.end(), some, some + count);
            });
            const std::scoped_lock lock(mutex);
            out.insert(out.end(), found.begin(), found.end());
        });
        return out;
    }

    const WeightKernels<Weight>& kernels_;
    const Weight* weights_;
    std::size_t size_;
    RandomStream stream_;
    int threads_;
};

}  // namespace ensemw2s
