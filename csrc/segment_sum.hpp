// Sums over consecutive stretches of an array.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>

#include "compensated.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace ensemw2s {

inline constexpr std::size_t kShortSegment = 32;  // below it the lanes of the fast sum cost more than they save

template <class Value>
[[nodiscard]] CompensatedSum short_sum(const Value* values, std::size_t size) {
    CompensatedSum total;
    for (std::size_t i = 0; i < size; ++i) {
        total.add(static_cast<double>(values[i]));
    }
    return total;
}

// Segments [first, last).
struct SegmentRange {
    std::size_t first;
    std::size_t last;
};

// Tasks of about a block of values each; each segment belongs to the block in which it begins. Offsets must be those of
// check_offsets.
class SegmentTasks {
public:
    explicit SegmentTasks(std::span<const std::int64_t> offsets)
        : offsets_(offsets), segments_(offsets.size() - 1), begin_(at(0)) {
        work_ = (at(segments_) - begin_) + segments_;  // empty segments are work too
        count_ = std::min(block_count(work_), segments_);
    }

    [[nodiscard]] std::size_t count() const { return count_; }
    [[nodiscard]] SegmentRange operator[](std::size_t task) const {
        return {edge(task), task + 1 == count_ ? segments_ : edge(task + 1)};
    }

private:
    [[nodiscard]] std::size_t at(std::size_t segment) const { return static_cast<std::size_t>(offsets_[segment]); }

    [[nodiscard]] std::size_t edge(std::size_t task) const {
        const std::size_t wanted = work_ / count_ * task;
        std::size_t low = 0;
        std::size_t high = segments_;
        while (low < high) {
            const std::size_t middle = (low + high) / 2;
            if (at(middle) - begin_ + middle < wanted) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        return low;
    }

    std::span<const std::int64_t> offsets_;
    std::size_t segments_;
    std::size_t begin_;
    std::size_t work_ = 0;
    std::size_t count_ = 0;
};

// out[s] = sum of values[offsets[s] … offsets[s + 1] - 1]; offsets must be those of check_offsets.
template <class Value>
void segment_sum(const Value* values, std::span<const std::int64_t> offsets, std::span<double> out, int threads) {
    const SegmentTasks tasks(offsets);
    parallel_for(tasks.count(), threads, [&](std::size_t task) {
        const SegmentRange range = tasks[task];
        for (std::size_t segment = range.first; segment < range.last; ++segment) {
            const Value* first = values + offsets[segment];
            const auto size = static_cast<std::size_t>(offsets[segment + 1] - offsets[segment]);
            out[segment] = (size < kShortSegment ? short_sum(first, size) : sum_of(first, size)).value();
        }
    });
}

// Throws std::invalid_argument unless offsets rise from at least 0 to at most `size`.
inline void check_offsets(std::span<const std::int64_t> offsets, std::size_t size) {
    if (offsets.empty()) {
        throw std::invalid_argument("offsets are empty; expected one more than there are segments");
    }
    if (offsets.front() < 0) {
        throw std::invalid_argument("offsets[0] is " + std::to_string(offsets.front()) + "; expected at least 0");
    }
    for (std::size_t i = 1; i < offsets.size(); ++i) {
        if (offsets[i] < offsets[i - 1]) {
            throw std::invalid_argument("offsets[" + std::to_string(i) + "] is " + std::to_string(offsets[i]) +
                                        ", below offsets[" + std::to_string(i - 1) + "]; expected them to rise");
        }
    }
    if (std::cmp_greater(offsets.back(), size)) {
        throw std::invalid_argument("the last offset is " + std::to_string(offsets.back()) + "; there are only " +
                                    std::to_string(size) + " values");
    }
}

}  // namespace ensemw2s
