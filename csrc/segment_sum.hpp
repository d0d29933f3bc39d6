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

// out[s] = sum of values[offsets[s] … offsets[s + 1] - 1]; offsets must be those of check_offsets.
template <class Value>
void segment_sum(const Value* values, std::span<const std::int64_t> offsets, std::span<double> out,
                 CompensatedSum (*long_sum)(const Value*, std::size_t), int threads) {
    constexpr std::size_t kShort = 48;  // below this the lanes of the fast sum cost more than they save
    const auto sum = [&](std::size_t segment) {
        const Value* first = values + offsets[segment];
        const auto size = static_cast<std::size_t>(offsets[segment + 1] - offsets[segment]);
        if (size >= kShort) {
            return long_sum(first, size).value();
        }
        CompensatedSum total;
        for (std::size_t i = 0; i < size; ++i) {
            total.add(static_cast<double>(first[i]));
        }
        return total.value();
    };
    // tasks of about a block of values each; each segment belongs to the block in which it begins
    const std::size_t begin = offsets.empty() ? 0 : static_cast<std::size_t>(offsets.front());
    const std::size_t end = offsets.empty() ? 0 : static_cast<std::size_t>(offsets.back());
    const std::size_t work = (end - begin) + out.size();  // empty segments are work too
    const std::size_t tasks = std::min(block_count(work), out.size());
    parallel_for(tasks, threads, [&](std::size_t task) {
        const auto edge = [&](std::size_t number) {
            const auto reached = [&](std::size_t segment) {
                return static_cast<std::size_t>(offsets[segment]) - begin + segment;
            };
            const std::size_t wanted = work / tasks * number;
            std::size_t low = 0;
            std::size_t high = out.size();
            while (low < high) {
                const std::size_t middle = (low + high) / 2;
                if (reached(middle) < wanted) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            return low;
        };
        const std::size_t last = task + 1 == tasks ? out.size() : edge(task + 1);
        for (std::size_t segment = edge(task); segment < last; ++segment) {
            out[segment] = sum(segment);
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
