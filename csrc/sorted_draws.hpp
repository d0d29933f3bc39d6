// Independent draws with replacement in increasing order of category, without a table and without sorting. If E_0 … E_n
// are exponential, (E_0 + … + E_k) / (E_0 + … + E_n) for k < n are n sorted uniform numbers (Devroye 1986, V.3.1);
// merged with the prefix sums of the weights they give the draws with sequential memory access only.
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

// Prefix sums at the boundaries of consecutive parts, rising even where rounding would let them fall.
[[nodiscard]] inline std::vector<double> running_sums(std::span<const CompensatedSum> parts) {
    std::vector<double> out{0.0};
    out.reserve(parts.size() + 1);
    CompensatedSum total;
    for (const CompensatedSum& part : parts) {
        total.add(part);
        out.push_back(std::max(out.back(), total.value()));
    }
    return out;
}

// Prefix sums of weights at fixed block boundaries.
template <class Weight>
class PrefixSums {
public:
    static constexpr std::size_t kStep = 4096;

    PrefixSums() = default;

    // `sums` are those of the blocks.
    PrefixSums(const Weight* weights, std::size_t size, std::span<const CompensatedSum> sums)
        : weights_(weights), size_(size), starts_(running_sums(sums)) {
        for (last_ = size_ - 1; last_ > 0 && !(weights_[last_] > 0); --last_) {
        }
    }

    [[nodiscard]] double total() const { return starts_.back(); }
    [[nodiscard]] std::size_t blocks() const { return starts_.size() - 1; }
    [[nodiscard]] double start(std::size_t block) const { return starts_[block]; }

    // The block in which a prefix sum is reached, from block `from` on.
    [[nodiscard]] std::size_t block_of(double position, std::size_t from) const {
        const auto begin = starts_.begin() + static_cast<std::ptrdiff_t>(from) + 1;
        const auto after = std::upper_bound(begin, starts_.end(), position);
        return std::min(from + static_cast<std::size_t>(after - begin), blocks() - 1);
    }

    // Fills `sums` with the prefix sums inside a block, from 0 on and with infinities up to a whole span, and returns
    // how many there are. Four at a time, so that an addition need not wait for the one before it.
    std::size_t fill(std::size_t block, double* sums) const {
        const Weight* weights = weights_ + block * kStep;
        const std::size_t size = std::min(kStep, size_ - block * kStep);
        const std::size_t whole = size - size % 4;
        double base = 0.0;
        for (std::size_t i = 0; i < whole; i += 4) {
            const auto one = static_cast<double>(weights[i]);
            const double two = one + static_cast<double>(weights[i + 1]);
            const double three = two + static_cast<double>(weights[i + 2]);
            const double four = three + static_cast<double>(weights[i + 3]);
            sums[i] = base + one;
            sums[i + 1] = base + two;
            sums[i + 2] = base + three;
            sums[i + 3] = base + four;
            base = base + four;
        }
        for (std::size_t i = whole; i < size; ++i) {
            base += static_cast<double>(weights[i]);
            sums[i] = base;
        }
        std::fill(sums + size, sums + block_count(size, kSpan) * kSpan, HUGE_VAL);
        return size;
    }

    // The first category from `index` on that can be drawn, or the last one before it.
    [[nodiscard]] std::size_t possible(std::size_t index) const {
        while (index < last_ && !(weights_[index] > 0)) {
            ++index;
        }
        return std::min(index, last_);
    }

private:
    const Weight* weights_ = nullptr;
    std::size_t size_ = 0;
    std::size_t last_ = 0;  // last category of positive weight
    std::vector<double> starts_;
};

// Finds, for rising positions, the first category whose prefix sum exceeds each. What it finds depends on the position
// alone, not on those before it. Where the sum inside a block falls short of the block's end by rounding, a position in
// between belongs to the next category that can be drawn.
template <class Weight>
class Merge {
public:
    Merge(const PrefixSums<Weight>& prefix, double first) : prefix_(prefix) { enter(prefix.block_of(first, 0)); }

    static constexpr std::size_t kMostPositions = 1024;

    // Overwrites the positions' places in `out`; `positions`, at most kMostPositions, is overwritten too. kSumLanes
    // numbers that are no smaller lie behind it.
    void run(std::span<double> positions, std::int64_t* out) {
        std::size_t done = 0;
        while (done < positions.size()) {
            if (positions[done] >= end_) {
                enter(prefix_.block_of(positions[done], block_));
            }
            const auto first = positions.begin() + static_cast<std::ptrdiff_t>(done);
            const auto count = static_cast<std::size_t>(std::lower_bound(first, positions.end(), end_) - first);
            const std::span<double> here = positions.subspan(done, count);
            for (double& position : here) {
                position -= start_;
            }
            place(here, out + done);
            done += count;
        }
    }

private:
    static constexpr std::size_t kStep = PrefixSums<Weight>::kStep;
    static constexpr std::size_t kSpans = kStep / kSpan;

    void enter(std::size_t block) {
        block_ = block;
        start_ = prefix_.start(block);
        end_ = block + 1 < prefix_.blocks() ? prefix_.start(block + 1) : HUGE_VAL;
        size_ = prefix_.fill(block, sums_);
        spans_ = block_count(size_, kSpan);
        for (std::size_t span = 0; span < spans_; ++span) {
            lasts_[span] = sums_[span * kSpan + kSpan - 1];
        }
        at_ = 0;
    }

    // Where each wanted position is first exceeded: first the span, then the place in it. The spans are the only thing
    // that is looked for one after the other.
    void place(std::span<const double> wanted, std::int64_t* out) {
        constexpr std::size_t kSparse = 16;
        std::size_t found = 0;
        if (wanted.size() * kSparse < spans_ - at_) {
            for (; found < wanted.size(); ++found) {
                const double* after = std::upper_bound(lasts_ + at_, lasts_ + spans_, wanted[found]);
                at_ = static_cast<std::size_t>(after - lasts_);
                if (at_ == spans_) {
                    break;
                }
                span_of_[found] = static_cast<std::uint32_t>(at_);
            }
        } else {
            found = kernels().find_spans(lasts_, spans_, at_, wanted.data(), wanted.size(), span_of_);
            at_ = found > 0 ? span_of_[found - 1] : at_;
        }
        const std::size_t base = block_ * kStep;
        kernels().find_in_spans(sums_, span_of_, wanted.data(), found, base, out);
        const auto beyond = static_cast<std::int64_t>(base + size_);
        std::fill(out + found, out + wanted.size(), beyond);
        for (std::size_t k = wanted.size(); k > 0 && out[k - 1] == beyond; --k) {
            out[k - 1] = static_cast<std::int64_t>(prefix_.possible(base + size_));
        }
    }

    const PrefixSums<Weight>& prefix_;
    std::size_t block_ = 0;
    double start_ = 0.0;
    double end_ = 0.0;
    std::size_t size_ = 0;
    std::size_t spans_ = 0;
    std::size_t at_ = 0;  // the span that is looked at
    double lasts_[kSpans];
    std::uint32_t span_of_[kMostPositions + kSumLanes];
    alignas(64) double sums_[kStep];
};

// Fills `out` with draws in increasing order. They depend on the stream and on their number, not on threads.
template <class Weight>
void draw_sorted(const PrefixSums<Weight>& prefix, const RandomStream& stream, std::span<std::int64_t> out,
                 int threads) {
    constexpr std::size_t kDraws = 65536;
    constexpr std::size_t kChunk = Merge<Weight>::kMostPositions;
    const std::size_t gaps = out.size() + 1;  // E_0 … E_n; the first n wait as bits in the place of their draws
    const std::size_t tasks = block_count(gaps, kDraws);
    std::vector<CompensatedSum> sums(tasks);
    parallel_for(tasks, threads, [&](std::size_t task) {
        double buffer[kChunk];
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
    const std::vector<double> starts = running_sums(sums);
    const double scale = prefix.total() / starts.back();
    parallel_for(tasks, threads, [&](std::size_t task) {
        const std::size_t end = std::min(out.size(), (task + 1) * kDraws);
        Merge<Weight> merge(prefix, starts[task] * scale);
        double positions[kChunk + kSumLanes];
        double sum = 0.0;
        for (std::size_t at = task * kDraws; at < end; at += kChunk) {
            const std::size_t count = std::min(kChunk, end - at);
            for (std::size_t i = 0; i < count; ++i) {
                sum += std::bit_cast<double>(out[at + i]);
                positions[i] = std::min(starts[task] + sum, starts[task + 1]) * scale;
            }
            std::fill(positions + count, positions + count + kSumLanes, HUGE_VAL);
            merge.run(std::span<double>(positions, count), out.data() + at);
        }
    });
}

}  // namespace ensemw2s
