// Grown weights in the logarithm, for exponents or weights beyond the range in which products are safe. An exponent
// alpha s + log w is kept in its two parts and only looked at in differences: alpha (s - s') + (log w - log w'), which
// stays exact to a rounding where the sums themselves are so large that log w does not show in them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "compensated.hpp"
#include "kernels.hpp"

namespace ensemw2s {

struct Exponent {
    double log_weight = -HUGE_VAL;
    double wrong = 0.0;

    [[nodiscard]] bool possible() const { return log_weight > -HUGE_VAL; }
    [[nodiscard]] double minus(const Exponent& other, double alpha) const {
        return alpha * (wrong - other.wrong) + (log_weight - other.log_weight);
    }
    // In the order of the exponents, by their sums to twice the digits of a double: unlike the sign of a difference, a
    // total order however it is rounded.
    [[nodiscard]] bool below(const Exponent& other, double alpha) const {
        const auto [high, low] = parts(alpha);
        const auto [other_high, other_low] = other.parts(alpha);
        return std::tie(high, low, log_weight) < std::tie(other_high, other_low, other.log_weight);
    }

private:
    [[nodiscard]] std::pair<double, double> parts(double alpha) const {
        const double product = alpha * wrong;
        CompensatedSum sum{product, std::fma(alpha, wrong, -product)};
        sum.add(log_weight);
        const double high = sum.value();
        return {high, std::isfinite(high) ? (sum.high - high) + sum.low : 0.0};
    }
};

// v_j = exp(exponent_j - exponent of the pivot) * scale, or the limit for those that are not below `capped_from`.
template <class Weight, class Wrong>
class LogGrowth {
public:
    explicit LogGrowth(double alpha) : alpha_(alpha) {}

    static Exponent exponent(Weight weight, Wrong wrong) {
        return {weight > 0 ? std::log(static_cast<double>(weight)) : -HUGE_VAL, static_cast<double>(wrong)};
    }

    void pivot(const Exponent& pivot) { pivot_ = pivot; }
    void scale(double scale) { scale_ = scale; }
    // What v_j has to be multiplied by to be w_j exp(alpha s_j), at scale 1.
    [[nodiscard]] double unit() const { return std::exp(alpha_ * pivot_.wrong + pivot_.log_weight); }

    [[nodiscard]] Exponent larger(const Exponent& one, const Exponent& other) const {
        return !other.possible() || (one.possible() && other.below(one, alpha_)) ? one : other;
    }

    [[nodiscard]] Exponent largest(const Weight* weights, const Wrong* wrong, std::size_t size) const {
        Exponent out;
        for (std::size_t i = 0; i < size; ++i) {
            out = larger(out, exponent(weights[i], wrong[i]));
        }
        return out;
    }

    CompensatedSum sum(const Weight* weights, const Wrong* wrong, std::size_t size, GrowthTally& tally) const {
        CompensatedSum out;
        for (std::size_t i = 0; i < size; ++i) {
            const double value = grown(exponent(weights[i], wrong[i]));
            out.add(value);
            tally.largest[0] = std::max(tally.largest[0], value);
        }
        return out;
    }

    CompensatedSum store(Weight* weights, const Wrong* wrong, std::size_t size, double limit,
                         GrowthTally& tally) const {
        for (std::size_t i = 0; i < size; ++i) {
            const Exponent own = exponent(weights[i], wrong[i]);
            const bool capped = capped_from_.has_value() && own.possible() && !own.below(*capped_from_, alpha_);
            weights[i] = static_cast<Weight>(capped ? limit : std::min(grown(own), limit));
            const auto kept = static_cast<double>(weights[i]);
            tally.squares[0] += kept * kept;
            tally.largest[0] = std::max(tally.largest[0], kept);
        }
        return sum_of(weights, size);
    }

    // Chooses pivot and scale such that sum_j min(v_j, limit) = 1, for positive weights of which there are more than
    // 1 / limit: the m largest stand at the limit, the others share the rest in proportion, and m is the least number
    // at which none of these exceeds the limit. Found by halving, as a median is.
    void fill_up(std::vector<Exponent>& exponents, double limit) {
        const auto falling = [this](const Exponent& a, const Exponent& b) { return b.below(a, alpha_); };
        std::size_t first = 0;
        std::size_t last = exponents.size();
        LogSum shared;  // of what lies below the limit for certain
        while (first < last) {
            const std::size_t middle = first + (last - first) / 2;
            const auto at = [&](std::size_t place) { return exponents.begin() + static_cast<std::ptrdiff_t>(place); };
            std::nth_element(at(first), at(middle), at(last), falling);
            LogSum more = shared;
            for (std::size_t i = middle; i < last; ++i) {
                add(more, exponents[i]);
            }
            const double rest = std::fma(-static_cast<double>(middle), limit, 1.0);
            if (rest * std::exp(exponents[middle].minus(more.largest, alpha_)) <= limit * more.sum.value()) {
                shared = more;
                last = middle;
            } else {
                capped_from_ = exponents[middle];
                first = middle + 1;
            }
        }
        pivot_ = shared.largest;
        scale_ = std::max(0.0, std::fma(-static_cast<double>(first), limit, 1.0)) / shared.sum.value();
    }

    // All positive weights stand at the limit: none is below the least that there can be.
    void fill_all() {
        capped_from_ = exponent(std::numeric_limits<Weight>::denorm_min(), static_cast<Wrong>(alpha_ > 0.0 ? 0 : 1));
    }

private:
    // A sum of exponentials relative to its largest term.
    struct LogSum {
        Exponent largest;
        CompensatedSum sum;
    };

    void add(LogSum& to, const Exponent& term) const {
        if (!to.largest.possible() || to.largest.below(term, alpha_)) {
            const double factor = to.largest.possible() ? std::exp(-difference(term, to.largest)) : 0.0;
            to = {term, {to.sum.high * factor, to.sum.low * factor}};
        }
        to.sum.add(std::exp(-difference(to.largest, term)));
    }

    // By how much one exponent exceeds another that is not larger.
    [[nodiscard]] double difference(const Exponent& one, const Exponent& other) const {
        return std::max(0.0, one.minus(other, alpha_));
    }

    [[nodiscard]] double grown(const Exponent& own) const {
        return own.possible() ? std::exp(-difference(pivot_, own)) * scale_ : 0.0;
    }

    double alpha_;
    Exponent pivot_;
    double scale_ = 1.0;
    std::optional<Exponent> capped_from_;
};

}  // namespace ensemw2s
