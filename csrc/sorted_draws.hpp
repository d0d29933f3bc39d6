// Independent draws with replacement in increasing order of category, without a table and without sorting. If E_0 … E_n
// are exponential, (E_0 + … + E_k) / (E_0 + … + E_n) for k < n are n sorted uniform numbers (Devroye 1986, V.3.1); merged
// with the prefix sums of the weights they give the draws with sequential memory access only.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels.hpp"
#include "philox.hpp"
#include "threads.hpp"

namespace ensemw2s {

// Prefix sums of weights at fixed block boundaries, and look-ups of the category at which a given sum is exceeded.
// The result depends on the sum alone, never on where a search began.
template <class Weight>
class PrefixSums {
public:
    static constexpr std::size_t kStep = 4096;

    PrefixSums(const Weight* weights, std::size_t size, int threads) : weights_(weights), size_(size) {
        std::vector<CompensatedSum> sums(block_count(size, kStep));
        constexpr std::size_t kPerTask = 16;
        parallel_for(block_count(sums.size(), kPerTask), threads, [&](std::size_t task) {
            const std::size_t end = std::min(sums.size(), (task + 1) * kPerTask);
            for (std::size_t b = task * kPerTask; b < end; ++b) {
                sums[b] = sum(weights_ + b * kStep, std::min(kStep, size_ - b * kStep));
            }
        });
        starts_.reserve(sums.size() + 1);
        CompensatedSum total;
        starts_.push_back(0.0);
        for (const CompensatedSum& part : sums) {
            total.add(part);
            starts_.push_back(std::max(starts_.back(), total.value()));
        }
        for (last_ = size_ - 1; last_ > 0 && !(weights_[last_] > 0); --last_) {
        }
    }

    [[nodiscard]] double total() const { return starts_.back(); }

    // A place in the weights that moves forward as the sum grows.
    class Cursor {
    public:
        Cursor(const PrefixSums& sums, double target) : sums_(sums) {
            const auto after = std::upper_bound(sums.starts_.begin(), sums.starts_.end(), target);
            enter(static_cast<std::size_t>(after - sums.starts_.begin()) - 1);
        }

        // The first category whose prefix sum exceeds the target; targets must not fall from call to call.
        std::size_t advance(double target) {
            if (target >= block_end_) {
                const auto after = std::upper_bound(sums_.starts_.begin() + static_cast<std::ptrdiff_t>(block_) + 1,
                                                    sums_.starts_.end(), target);
                enter(static_cast<std::size_t>(after - sums_.starts_.begin()) - 1);
            }
            const double wanted = target - block_start_;
            while (index_ < index_end_) {
                const double reached = sum_ + static_cast<double>(sums_.weights_[index_]);
                if (reached > wanted) {
                    return index_;
                }
                sum_ = reached;
                ++index_;
            }
            return sums_.first_positive(index_);
        }

    private:
        void enter(std::size_t block) {
            block_ = std::min(block, sums_.starts_.size() - 2);
            block_start_ = sums_.starts_[block_];
            block_end_ = block_ + 2 < sums_.starts_.size() ? sums_.starts_[block_ + 1] : HUGE_VAL;
            index_ = block_ * kStep;
            index_end_ = std::min(index_ + kStep, sums_.size_);
            sum_ = 0.0;
        }

        const PrefixSums& sums_;
        std::size_t block_ = 0;
        double block_start_ = 0.0;
        double block_end_ = 0.0;
        std::size_t index_ = 0;
        std::size_t index_end_ = 0;
        double sum_ = 0.0;
    };

private:
    static CompensatedSum sum(const double* values, std::size_t size) { return kernels().sum_double(values, size); }
    static CompensatedSum sum(const float* values, std::size_t size) { return kernels().sum_float(values, size); }

    // Where a block's own sum falls short of its rounded end, a draw belongs to the next category that can be drawn.
    [[nodiscard]] std::size_t first_positive(std::size_t index) const {
        while (index < last_ && !(weights_[index] > 0)) {
            ++index;
        }
        return std::min(index, last_);
    }

    const Weight* weights_;
    std::size_t size_;
    std::size_t last_ = 0;  // last category of positive weight
    std::vector<double> starts_;
};

// Fills `out` with draws in increasing order. They depend on the stream and on their number, not on threads.
template <class Weight>
void draw_sorted(const PrefixSums<Weight>& prefix, const RandomStream& stream, std::span<std::int64_t> out, int threads) {
    constexpr std::size_t kDraws = 65536;
    const std::size_t gaps = out.size() + 1;  // E_0 … E_n; the first n wait as bits in the place of their draws
    const std::size_t tasks = block_count(gaps, kDraws);
    std::vector<CompensatedSum> sums(tasks);
    parallel_for(tasks, threads, [&](std::size_t task) {
        double buffer[kGroup * 64];
        constexpr std::size_t kChunk = std::size(buffer);
        const std::size_t end = std::min(gaps, (task + 1) * kDraws);
        for (std::size_t at = task * kDraws; at < end; at += kChunk) {
            const std::size_t count = std::min(kChunk, end - at);
            kernels().exponentials(stream, at, count, buffer);
            sums[task].add(kernels().sum_double(buffer, count));
            for (std::size_t i = 0; i < std::min(count, out.size() - at); ++i) {
                out[at + i] = std::bit_cast<std::int64_t>(buffer[i]);
            }
        }
    });
    std::vector<double> starts{0.0};
    CompensatedSum all;
    for (const CompensatedSum& part : sums) {
        all.add(part);
        starts.push_back(std::max(starts.back(), all.value()));
    }
    const double scale = prefix.total() / starts.back();
    parallel_for(tasks, threads, [&](std::size_t task) {
        const std::size_t begin = task * kDraws;
        const std::size_t end = std::min(out.size(), begin + kDraws);
        if (begin >= end) {
            return;
        }
        typename PrefixSums<Weight>::Cursor cursor(prefix, starts[task] * scale);
        double sum = 0.0;
        for (std::size_t i = begin; i < end; ++i) {
            sum += std::bit_cast<double>(out[i]);
            const double position = std::min(starts[task] + sum, starts[task + 1]) * scale;
            out[i] = static_cast<std::int64_t>(cursor.advance(position));
        }
    });
}

}  // namespace ensemw2s
