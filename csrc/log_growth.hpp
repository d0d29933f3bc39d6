// Grown weights in the logarithm, for exponents or weights beyond the range in which products are safe:
// v_j = exp(log w_j + alpha s_j - shift) * scale. Same interface as the fast kernels, one value at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "compensated.hpp"
#include "kernels.hpp"

namespace ensemw2s {

template <class Weight, class Wrong>
struct LogGrowth {
    static double exponent(Weight weight, Wrong wrong, double alpha) {
        return weight > 0 ? std::log(static_cast<double>(weight)) + alpha * static_cast<double>(wrong) : -HUGE_VAL;
    }

    static double grown(Weight weight, Wrong wrong, const Growth& growth) {
        return std::exp(exponent(weight, wrong, growth.alpha) - growth.shift) * growth.scale;
    }

    static CompensatedSum sum(const Weight* weights, const Wrong* wrong, std::size_t size, const Growth& growth,
                              GrowthTally& tally) {
        CompensatedSum out;
        for (std::size_t i = 0; i < size; ++i) {
            const double value = grown(weights[i], wrong[i], growth);
            out.add(value);
            tally.largest[0] = std::max(tally.largest[0], value);
        }
        return out;
    }

    static CappedSums capped(const Weight* weights, const Wrong* wrong, std::size_t size, const Growth& growth,
                             double limit) {
        CappedSums out;
        for (std::size_t i = 0; i < size; ++i) {
            const double value = grown(weights[i], wrong[i], growth);
            if (value > limit) {
                ++out.above;
            } else {
                out.below.add(value);
            }
        }
        return out;
    }

    static CompensatedSum store(Weight* weights, const Wrong* wrong, std::size_t size, const Growth& growth,
                                double limit, GrowthTally& tally) {
        for (std::size_t i = 0; i < size; ++i) {
            weights[i] = static_cast<Weight>(std::min(grown(weights[i], wrong[i], growth), limit));
            const auto kept = static_cast<double>(weights[i]);
            tally.squares[0] += kept * kept;
            tally.largest[0] = std::max(tally.largest[0], kept);
        }
        return sum_of(weights, size);
    }

    // The largest exponent, which as the shift makes the largest v_j 1.
    static double peak(const Weight* weights, const Wrong* wrong, std::size_t size, double alpha) {
        double out = -HUGE_VAL;
        for (std::size_t i = 0; i < size; ++i) {
            out = std::max(out, exponent(weights[i], wrong[i], alpha));
        }
        return out;
    }
};

}  // namespace ensemw2s
