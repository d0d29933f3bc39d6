// Categories in the order of their keys, where the keys' distribution is roughly known: spread over buckets of two or
// so, which leaves little to sort.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "large_memory.hpp"
#include "threads.hpp"

namespace ensemw2s {

struct KeyedCategory {
    double key;
    std::size_t category;

    friend bool operator<(const KeyedCategory& a, const KeyedCategory& b) {
        return a.key < b.key || (a.key == b.key && a.category < b.category);
    }
};

// A key's exponent and first four binary digits, which order keys coarsely. NaN (weight 0) comes after infinity.
[[nodiscard]] inline std::size_t key_bin(double key) {
    return std::bit_cast<std::uint64_t>(key) >> 48U;
}
inline constexpr std::size_t kKeyBins = 0x7FF1;  // the last bin is infinity's
using KeyHistogram = std::vector<std::size_t>;   // keys in each bin

// The largest key in a bin.
[[nodiscard]] inline double last_of(std::size_t bin) {
    return bin + 1 < kKeyBins ? std::bit_cast<double>((std::uint64_t{bin + 1} << 48U) - 1U) : HUGE_VAL;
}

// About which share of all keys lies below a key, from a histogram of some of them.
class KeyRanks {
public:
    // Of keys in bins up to `last`.
    KeyRanks(const KeyHistogram& counts, std::size_t last) : lines_(last + 1) {
        double all = 0.0;
        for (std::size_t bin = 0; bin <= last; ++bin) {
            lines_[bin] = {all, static_cast<double>(counts[bin])};
            all += lines_[bin].slope;
        }
        for (Line& line : lines_) {
            line.start /= std::max(all, 1.0);
            line.slope *= 0x1p-48 / std::max(all, 1.0);
        }
    }

    // Never falls where keys rise; in [0, 1] but for rounding.
    [[nodiscard]] double operator()(double key) const {
        constexpr std::uint64_t kRest = (std::uint64_t{1} << 48U) - 1U;
        const Line& line = lines_[key_bin(key)];
        return line.start + line.slope * static_cast<double>(std::bit_cast<std::uint64_t>(key) & kRest);
    }

private:
    struct Line {
        double start = 0.0;
        double slope = 0.0;
    };
    std::vector<Line> lines_;
};

// Memory for items, handed out in chunks that last as long as it does. May be called from several threads at once.
class ItemMemory {
public:
    explicit ItemMemory(std::size_t chunk) : chunk_(chunk) {}

    [[nodiscard]] std::span<KeyedCategory> chunk() {
        const std::scoped_lock lock(mutex_);
        if (left_ == 0) {
            left_ = kChunksTogether;
            blocks_.push_back(large_array<KeyedCategory>(kChunksTogether * chunk_));
        }
        return {blocks_.back().get() + --left_ * chunk_, chunk_};
    }

private:
    static constexpr std::size_t kChunksTogether = 64;

    std::size_t chunk_;
    std::size_t left_ = 0;
    std::vector<LargeArray<KeyedCategory>> blocks_;
    std::mutex mutex_;
};

// Collects keyed categories from several tasks and gives the first of them in order. Tasks may run at the same time;
// what they add, and in which order they run, does not matter.
class KeyedSort {
public:
    // `expected` is about how many there will be.
    KeyedSort(KeyRanks ranks, std::size_t expected, std::size_t tasks)
        : ranks_(std::move(ranks)),
          parts_(std::clamp<std::size_t>(expected / kPartSize, 1, kMostParts)),
          memory_(std::clamp<std::size_t>(expected / tasks / 8, 64, 8192)),
          added_(tasks) {}

    void add(std::size_t task, std::span<const KeyedCategory> items) {
        Added& added = added_[task];
        if (added.counts.empty()) {
            added.counts.assign(parts_, 0);
        }
        for (const KeyedCategory& item : items) {
            if (added.chunks.empty() || added.last_holds == added.chunks.back().size()) {
                added.chunks.push_back(memory_.chunk());
                added.last_holds = 0;
            }
            added.chunks.back()[added.last_holds++] = item;
            ++added.counts[part_of(ranks_(item.key))];
        }
    }

    [[nodiscard]] std::size_t size() const {
        std::size_t out = 0;
        for (const Added& added : added_) {
            out = std::accumulate(added.counts.begin(), added.counts.end(), out);
        }
        return out;
    }

    // The categories of the smallest keys; there must be as many.
    void first(std::span<std::int64_t> out, int threads) {
        const std::vector<std::size_t> starts = reserve_places();
        const auto spread = large_array<KeyedCategory>(std::max<std::size_t>(starts.back(), 1));
        parallel_for(added_.size(), threads, [&](std::size_t task) {
            std::size_t* places = places_.data() + task * parts_;
            for (const std::span<const KeyedCategory> items : added_[task].filled()) {
                for (const KeyedCategory& item : items) {
                    spread[places[part_of(ranks_(item.key))]++] = item;
                }
            }
        });
        parallel_for(parts_, threads, [&](std::size_t part) {
            if (starts[part] < out.size()) {
                const std::span<KeyedCategory> items(spread.get() + starts[part], starts[part + 1] - starts[part]);
                sort_part(items, part);
                const std::size_t wanted = std::min(items.size(), out.size() - starts[part]);
                for (std::size_t i = 0; i < wanted; ++i) {
                    out[starts[part] + i] = static_cast<std::int64_t>(items[i].category);
                }
            }
        });
    }

private:
    // What one task has added.
    struct Added {
        std::vector<std::span<KeyedCategory>> chunks;
        std::size_t last_holds = 0;         // items in the last chunk; the others are full
        std::vector<std::uint32_t> counts;  // in each part

        [[nodiscard]] std::vector<std::span<const KeyedCategory>> filled() const {
            std::vector<std::span<const KeyedCategory>> out(chunks.begin(), chunks.end());
            if (!out.empty()) {
                out.back() = out.back().first(last_holds);
            }
            return out;
        }
    };

    static constexpr std::size_t kPartSize = 4096;
    static constexpr std::size_t kMostParts = 2048;

    [[nodiscard]] std::size_t part_of(double rank) const {
        return std::min(static_cast<std::size_t>(rank * static_cast<double>(parts_)), parts_ - 1);
    }

    // Where the parts begin, and where each task's share of each part does.
    std::vector<std::size_t> reserve_places() {
        std::vector<std::size_t> starts(parts_ + 1, 0);
        places_.resize(added_.size() * parts_);
        std::size_t place = 0;
        for (std::size_t part = 0; part < parts_; ++part) {
            starts[part] = place;
            for (std::size_t task = 0; task < added_.size(); ++task) {
                places_[task * parts_ + part] = place;
                place += added_[task].counts.empty() ? 0 : added_[task].counts[part];
            }
        }
        starts[parts_] = place;
        return starts;
    }

    void sort_part(std::span<KeyedCategory> items, std::size_t part) const {
        constexpr std::size_t kPerBucket = 2;
        constexpr std::size_t kFew = 16;
        const std::size_t buckets = items.size() / kPerBucket + 1;
        const auto bucket = [&](const KeyedCategory& item) {
            const double inside = ranks_(item.key) * static_cast<double>(parts_) - static_cast<double>(part);
            return std::min(static_cast<std::size_t>(std::max(inside, 0.0) * static_cast<double>(buckets)),
                            buckets - 1);
        };
        std::vector<std::uint32_t> ends(buckets + 1, 0);  // of the buckets, when all are filled
        for (const KeyedCategory& item : items) {
            ++ends[bucket(item) + 1];
        }
        for (std::size_t b = 0; b < buckets; ++b) {
            ends[b + 1] += ends[b];
        }
        const std::vector<KeyedCategory> unsorted(items.begin(), items.end());
        for (const KeyedCategory& item : unsorted) {
            items[ends[bucket(item)]++] = item;
        }
        std::size_t begin = 0;
        for (std::size_t b = 0; b < buckets; ++b) {
            const std::span<KeyedCategory> here = items.subspan(begin, ends[b] - begin);
            if (here.size() > kFew) {
                std::ranges::sort(here, std::less<>());
            } else {
                insert_in_order(here);
            }
            begin = ends[b];
        }
    }

    static void insert_in_order(std::span<KeyedCategory> items) {
        for (std::size_t i = 1; i < items.size(); ++i) {
            const KeyedCategory item = items[i];
            std::size_t place = i;
            for (; place > 0 && item < items[place - 1]; --place) {
                items[place] = items[place - 1];
            }
            items[place] = item;
        }
    }

    KeyRanks ranks_;
    std::size_t parts_;
    ItemMemory memory_;
    std::vector<Added> added_;
    std::vector<std::size_t> places_;
};

}  // namespace ensemw2s
