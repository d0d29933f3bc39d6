// The error of one expert under given weights, and what the boosting step needs to know of them: in one sweep.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "compensated.hpp"
#include "errors.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace ensemw2s {

struct WeightedError {
    double total = 0.0;    // sum of the weights
    double wrong = 0.0;    // sum of weights times `wrong`
    double squares = 0.0;  // sum of the squares of the weights
    bool binary = true;    // `wrong` is 0 or 1 everywhere
};

// Throws std::invalid_argument for the first value that is not allowed.
template <class Weight, class Wrong>
[[nodiscard]] WeightedError weighted_error(std::span<const Weight> weights, const Wrong* wrong,
                                           const GrowthKernels<Weight, Wrong>& fast, int threads) {
    std::vector<ErrorSums> parts(block_count(weights.size()));
    parallel_for(parts.size(), threads, [&](std::size_t block) {
        const std::size_t first = block * kBlock;
        parts[block] = fast.errors(weights.data() + first, wrong + first, std::min(kBlock, weights.size() - first));
    });
    WeightedError out;
    CompensatedSum total;
    CompensatedSum wrong_total;
    bool suspect = false;
    for (const ErrorSums& part : parts) {
        total.add(part.total);
        wrong_total.add(part.wrong);
        for (const double squares : part.tally.squares) {
            out.squares += squares;
        }
        suspect |= part.tally.negative || part.tally.invalid_wrong;
        out.binary &= part.binary;
    }
    out.total = total.value();
    out.wrong = wrong_total.value();
    if (suspect || !std::isfinite(out.total)) {
        reject_invalid(weights.data(), wrong, weights.size(), "weights");
    }
    return out;
}

}  // namespace ensemw2s
