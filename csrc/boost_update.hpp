// The boosting step on token weights: D_j <- D_j exp(alpha s_j) / Z, with an optional cap on any weight, in place.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "compensated.hpp"
#include "errors.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace ensemw2s {

struct UpdateResult {
    double total = 0.0;    // Z, the sum of D_j exp(alpha s_j)
    double n_eff = 0.0;    // 1 / sum of the squares of the new weights
    double largest = 0.0;  // of the new weights
};

// Grown weights in the logarithm, for exponents or weights beyond the range in which products are safe:
// v_j = exp(log w_j + alpha s_j - shift). Same interface as the fast kernels, one value at a time.
template <class Weight, class Wrong>
struct LogGrowth {
    static double exponent(Weight weight, Wrong wrong, double alpha) {
        return weight > 0 ? std::log(static_cast<double>(weight)) + alpha * static_cast<double>(wrong) : -HUGE_VAL;
    }

    static GrownSums sums(const Weight* weights, const Wrong* wrong, std::size_t size, Growth growth) {
        GrownSums out;
        for (std::size_t i = 0; i < size; ++i) {
            const double grown = std::exp(exponent(weights[i], wrong[i], growth.alpha) - growth.shift);
            out.sum.add(grown);
            out.squares += grown * grown;
            out.largest = std::max(out.largest, grown);
        }
        return out;
    }

    static CappedSums capped(const Weight* weights, const Wrong* wrong, std::size_t size, Growth growth, double factor,
                             double limit) {
        CappedSums out;
        for (std::size_t i = 0; i < size; ++i) {
            const double grown = std::exp(exponent(weights[i], wrong[i], growth.alpha) - growth.shift);
            if (grown * factor > limit) {
                ++out.above;
            } else {
                out.below.add(grown);
            }
        }
        return out;
    }

    static StoredSums store(Weight* weights, const Wrong* wrong, std::size_t size, Growth growth, double factor,
                            double limit) {
        StoredSums out;
        for (std::size_t i = 0; i < size; ++i) {
            const double grown = std::exp(exponent(weights[i], wrong[i], growth.alpha) - growth.shift);
            const double kept = std::min(grown * factor, limit);
            out.squares += kept * kept;
            out.largest = std::max(out.largest, kept);
            weights[i] = static_cast<Weight>(kept);
        }
        return out;
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

template <class Weight, class Wrong>
class BoostUpdate {
public:
    BoostUpdate(std::span<Weight> weights, const Wrong* wrong, double alpha, std::optional<double> cap,
                const GrowthKernels<Weight, Wrong>& fast, int threads)
        : weights_(weights),
          wrong_(wrong),
          capped_(cap.has_value()),
          cap_(cap.value_or(0.0)),
          kernels_(fast),
          threads_(threads) {
        growth_.alpha = alpha;
    }

    // Nothing is written unless everything is valid.
    UpdateResult run() {
        check_arguments();
        constexpr double kSafeAlpha = 300.0;
        constexpr double kSafeTotal = 1e100;
        growth_.shift = std::max(growth_.alpha, 0.0);
        GrownSums grown = sum_all();
        if (grown.invalid_weight || grown.invalid_wrong) {
            reject();
        }
        const double plain = grown.sum.value();
        if (std::abs(growth_.alpha) > kSafeAlpha || !(plain >= 1.0 / kSafeTotal && plain <= kSafeTotal)) {
            use_logarithms();
            grown = sum_all();
        }
        const double total = grown.sum.value();
        double factor = 1.0 / total;
        double limit = std::numeric_limits<double>::infinity();
        if (capped_) {
            limit = rounded_down(cap_ / static_cast<double>(weights_.size()));
            if (grown.largest * factor > limit) {
                factor = fill_up(factor, limit);
            }
        }
        const StoredSums stored = store_all(factor, limit);
        return {total * std::exp(growth_.shift), 1.0 / stored.squares, stored.largest};
    }

private:
    void check_arguments() const {
        if (weights_.empty()) {
            throw std::invalid_argument("weights are empty");
        }
        if (!std::isfinite(growth_.alpha)) {
            throw std::invalid_argument("alpha is " + shown(growth_.alpha) + "; expected a finite number");
        }
        if (capped_ && !(cap_ >= 1.0 && std::isfinite(cap_))) {
            throw std::invalid_argument("cap is " + shown(cap_) + "; expected a finite number of at least 1");
        }
    }

    template <class Result, class Body>
    [[nodiscard]] std::vector<Result> per_block(const Body& body) const {
        std::vector<Result> parts(block_count(weights_.size()));
        parallel_for(parts.size(), threads_, [&](std::size_t block) {
            const std::size_t first = block * kBlock;
            parts[block] = body(first, std::min(kBlock, weights_.size() - first));
        });
        return parts;
    }

    [[nodiscard]] GrownSums sum_all() const {
        GrownSums out;
        for (const GrownSums& part : per_block<GrownSums>([&](std::size_t first, std::size_t size) {
                 return kernels_.sums(weights_.data() + first, wrong_ + first, size, growth_);
             })) {
            out.sum.add(part.sum);
            out.squares += part.squares;
            out.largest = std::max(out.largest, part.largest);
            out.invalid_weight |= part.invalid_weight;
            out.invalid_wrong |= part.invalid_wrong;
        }
        return out;
    }

    // Names the first value that is not allowed, and throws.
    [[noreturn]] void reject() const {
        for (std::size_t i = 0; i < weights_.size(); ++i) {
            const auto weight = static_cast<double>(weights_[i]);
            const auto wrong = static_cast<double>(wrong_[i]);
            if (!(weight >= 0.0) || std::isinf(weight)) {
                bad_value("weights", i, weight, "a finite number that is not negative");
            }
            if (!(wrong >= 0.0 && wrong <= 1.0)) {
                bad_value("wrong", i, wrong, std::is_same_v<Wrong, std::uint8_t> ? "0 or 1" : "a number in [0, 1]");
            }
        }
        throw std::invalid_argument("weights or wrong changed while they were read");
    }

    void use_logarithms() {
        kernels_ = {LogGrowth<Weight, Wrong>::sums, LogGrowth<Weight, Wrong>::capped, LogGrowth<Weight, Wrong>::store};
        double peak = -HUGE_VAL;
        for (const double part : per_block<double>([&](std::size_t first, std::size_t size) {
                 return LogGrowth<Weight, Wrong>::peak(weights_.data() + first, wrong_ + first, size, growth_.alpha);
             })) {
            peak = std::max(peak, part);
        }
        if (std::isinf(peak)) {
            throw std::invalid_argument("all weights are 0");
        }
        growth_.shift = peak;
    }

    // Finds the factor with which sum_j min(factor v_j, limit) = 1: the largest weights stand at the limit, the others
    // share the rest in proportion. The sum is a concave function of the factor, made of straight pieces; this is
    // Newton's method from the left, which never passes the solution and ends on its piece after a few steps.
    [[nodiscard]] double fill_up(double factor, double limit) const {
        std::size_t above = 0;
        for (;;) {
            CappedSums sums;
            for (const CappedSums& part : per_block<CappedSums>([&](std::size_t first, std::size_t size) {
                     return kernels_.capped(weights_.data() + first, wrong_ + first, size, growth_, factor, limit);
                 })) {
                sums.below.add(part.below);
                sums.above += part.above;
            }
            if (sums.above == above) {
                return factor;
            }
            above = sums.above;
            const double rest = 1.0 - static_cast<double>(above) * limit;
            if (!(sums.below.value() > 0.0)) {  // every positive weight stands at the limit
                check_feasible(above, rest);
                return std::numeric_limits<double>::max();
            }
            factor = std::max(factor, rest / sums.below.value());
        }
    }

    // The limit as it can be stored: the nearest Weight might lie above it.
    static double rounded_down(double limit) {
        auto stored = static_cast<Weight>(limit);
        if (static_cast<double>(stored) > limit) {
            stored = std::nextafter(stored, Weight{0});
        }
        return static_cast<double>(stored);
    }

    void check_feasible(std::size_t positive, double rest) const {
        constexpr double kRounding = 4.0 * static_cast<double>(std::numeric_limits<Weight>::epsilon()) + 1e-9;
        if (rest > kRounding) {
            throw std::invalid_argument("a cap of " + shown(cap_) + " / " + std::to_string(weights_.size()) +
                                        " cannot hold with so few positive weights: " + std::to_string(positive));
        }
    }

    [[nodiscard]] StoredSums store_all(double factor, double limit) const {
        StoredSums out;
        for (const StoredSums& part : per_block<StoredSums>([&](std::size_t first, std::size_t size) {
                 return kernels_.store(weights_.data() + first, wrong_ + first, size, growth_, factor, limit);
             })) {
            out.squares += part.squares;
            out.largest = std::max(out.largest, part.largest);
        }
        return out;
    }

    std::span<Weight> weights_;
    const Wrong* wrong_;
    bool capped_;
    double cap_;
    GrowthKernels<Weight, Wrong> kernels_;
    int threads_;
    Growth growth_;
};

}  // namespace ensemw2s
