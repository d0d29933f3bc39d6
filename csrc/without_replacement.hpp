// Draws without replacement: category i gets the key E_i / w_i with E_i exponential, and the categories of the smallest
// keys, in the order of their keys, are the draws (Efraimidis and Spirakis 2006; the same as drawing one after the other
// from what is left). So the first m of n draws are the draws of a smaller sample. Keys are computed twice instead of
// stored: once for a histogram, from which the key that is not exceeded is known to a few percent, once to collect.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
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
[[nodiscard]] inline std::size_t key_bin(double key) { return std::bit_cast<std::uint64_t>(key) >> 48U; }
inline constexpr std::size_t kKeyBins = 0x7FF1;  // the last bin is infinity's

// Calls visit(first, keys) for consecutive stretches of one task's categories.
template <class Weight, class Visit>
void visit_keys(const WeightKernels<Weight>& kernels, const Weight* weights, std::size_t begin, std::size_t end,
                const RandomStream& stream, const Visit& visit) {
    constexpr std::size_t kChunk = 1024;
    double keys[kChunk];
    for (std::size_t at = begin; at < end; at += kChunk) {
        const std::size_t count = std::min(kChunk, end - at);
        kernels.keys(stream, at, weights + at, count, keys);
        visit(at, std::span<const double>(keys, count));
    }
}

// Sorts by spreading over buckets of equal width, which hold a few each, and sorting these.
inline void sort_keyed(std::vector<KeyedCategory>& items, int threads) {
    constexpr std::size_t kPerBucket = 8;
    constexpr std::size_t kSmall = 4096;
    if (items.size() < kSmall) {
        std::sort(items.begin(), items.end());
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

// Fills `out` with different categories of positive weight, in the order in which they are drawn. There must be enough
// of them.
template <class Weight>
void draw_without_replacement(const WeightKernels<Weight>& kernels, const Weight* weights, std::size_t size,
                              const RandomStream& stream, std::span<std::int64_t> out, int threads) {
    if (out.empty()) {
        return;
    }
    const std::size_t stretch = std::max(kBlock, (size / 64 + kGroup) / kGroup * kGroup);  // few histograms
    const std::size_t tasks = block_count(size, stretch);
    std::vector<std::size_t> histogram(kKeyBins, 0);
    std::mutex mutex;
    parallel_for(tasks, threads, [&](std::size_t task) {
        std::vector<std::size_t> counts(kKeyBins + 15, 0);  // and the bins of NaN
        visit_keys(kernels, weights, task * stretch, std::min(size, (task + 1) * stretch), stream,
                   [&](std::size_t, std::span<const double> keys) {
                       for (const double key : keys) {
                           ++counts[key_bin(key)];
                       }
                   });
        const std::scoped_lock lock(mutex);
        for (std::size_t bin = 0; bin < kKeyBins; ++bin) {
            histogram[bin] += counts[bin];
        }
    });
    std::size_t last_bin = 0;
    std::size_t expected = histogram[0];
    while (expected < out.size() && last_bin + 1 < kKeyBins) {
        expected += histogram[++last_bin];
    }
    std::vector<KeyedCategory> items;
    items.reserve(expected);
    parallel_for(tasks, threads, [&](std::size_t task) {
        std::vector<KeyedCategory> found;
        visit_keys(kernels, weights, task * stretch, std::min(size, (task + 1) * stretch), stream,
                   [&](std::size_t first, std::span<const double> keys) {
                       for (std::size_t i = 0; i < keys.size(); ++i) {
                           if (key_bin(keys[i]) <= last_bin) {
                               found.push_back({keys[i], first + i});
                           }
                       }
                   });
        const std::scoped_lock lock(mutex);
        items.insert(items.end(), found.begin(), found.end());
    });
    if (items.size() < out.size()) {
        throw std::invalid_argument("weights changed while they were read");
    }
    sort_keyed(items, threads);
    for (std::size_t i = 0; i < out.size(); ++i) {
        out[i] = static_cast<std::int64_t>(items[i].category);
    }
}

}  // namespace ensemw2s
