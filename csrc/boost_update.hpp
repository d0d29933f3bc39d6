// The boosting step on token weights: D_j <- D_j exp(alpha s_j) / Z, with an optional cap on any weight, in place.
// Z is found in a sweep of its own that only reads, unless the caller knows it. Sums over segments of the new weights
// are formed while these are written.
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
#include <vector>

#include "compensated.hpp"
#include "errors.hpp"
#include "kernels.hpp"
#include "log_growth.hpp"
#include "segment_sum.hpp"
#include "threads.hpp"

namespace ensemw2s {

struct UpdateOptions {
    double alpha = 0.0;
    std::optional<double> cap;
    std::optional<double> total;            // the sum of D_j exp(alpha s_j), if it is known
    std::span<const std::int64_t> offsets;  // of segments, checked; or empty
    std::span<double> segment_sums;
    int threads = 0;
};

struct UpdateResult {
    double total = 0.0;    // Z, the sum of D_j exp(alpha s_j)
    double sum = 0.0;      // of the new weights
    double n_eff = 0.0;    // the square of that / the sum of the squares of the new weights
    double largest = 0.0;  // of the new weights
};

template <class Weight, class Wrong>
class BoostUpdate {
public:
    BoostUpdate(std::span<Weight> weights, const Wrong* wrong, const UpdateOptions& options,
                const GrowthKernels<Weight, Wrong>& fast)
        : weights_(weights), wrong_(wrong), options_(options), kernels_(fast), wide_(options.alpha) {}

    // Where the total is not known, nothing is written unless everything is valid.
    UpdateResult run() {
        check_arguments();
        if (options_.total.has_value() && !options_.cap.has_value() && std::abs(options_.alpha) <= kSafeAlpha &&
            is_safe(*options_.total)) {
            return in_one_sweep(*options_.total);
        }
        set_growth(1.0);
        Part grown = sum_all();
        if (grown.suspect) {
            reject_invalid(weights_.data(), wrong_, weights_.size(), "weights");
        }
        double unit = std::exp(growth_.shift);
        if (std::abs(options_.alpha) > kSafeAlpha || !is_safe(grown.sum.value())) {
            use_logarithms();
            grown = sum_all();
            unit = wide_.unit();
        }
        const double total = grown.sum.value();
        scale_by(1.0 / total);
        double limit = kNoLimit;
        if (options_.cap.has_value()) {
            limit = rounded_down(*options_.cap / static_cast<double>(weights_.size()));
            if (grown.largest / total > limit) {
                fill_up(limit);
            }
        }
        return result(total * unit, store_all(limit));
    }

private:
    static constexpr double kSafeAlpha = 300.0;
    static constexpr double kSafeTotal = 1e100;
    static constexpr double kNoLimit = std::numeric_limits<double>::infinity();

    // What is known about some of the weights.
    struct Part {
        CompensatedSum sum;
        double squares = 0.0;
        double largest = 0.0;
        bool suspect = false;  // something may not be valid

        Part() = default;
        Part(const CompensatedSum& total, const GrowthTally& tally)
            : sum(total), suspect(tally.negative || tally.invalid_wrong || !std::isfinite(total.value())) {
            for (std::size_t lane = 0; lane < kSumLanes; ++lane) {
                squares += tally.squares[lane];
                largest = std::max(largest, tally.largest[lane]);
            }
        }
        void add(const Part& other) {
            sum.add(other.sum);
            squares += other.squares;
            largest = std::max(largest, other.largest);
            suspect |= other.suspect;
        }
    };

    // Whether sums and products near `total` keep all their digits.
    static bool is_safe(double total) { return total >= 1.0 / kSafeTotal && total <= kSafeTotal; }

    void check_arguments() const {
        if (weights_.empty()) {
            throw std::invalid_argument("weights are empty");
        }
        if (!std::isfinite(options_.alpha)) {
            throw std::invalid_argument("alpha is " + shown(options_.alpha) + "; expected a finite number");
        }
        if (options_.cap.has_value() && !(*options_.cap >= 1.0 && std::isfinite(*options_.cap))) {
            throw std::invalid_argument("cap is " + shown(*options_.cap) + "; expected a finite number of at least 1");
        }
        if (options_.total.has_value() && !(*options_.total > 0.0 && std::isfinite(*options_.total))) {
            throw std::invalid_argument("total is " + shown(*options_.total) + "; expected a finite positive number");
        }
    }

    void set_growth(double scale) {
        growth_.alpha = options_.alpha;
        growth_.shift = std::max(options_.alpha, 0.0);
        set_scale(scale);
    }

    void set_scale(double scale) {
        growth_.scale = scale;
        growth_.if_right = kernels().exp_nonpositive(-growth_.shift) * scale;
        growth_.if_wrong = kernels().exp_nonpositive(growth_.alpha - growth_.shift) * scale;
    }

    UpdateResult in_one_sweep(double total) {
        set_growth(1.0);
        set_scale(1.0 / (total * kernels().exp_nonpositive(-growth_.shift)));
        const Part stored = store_all(kNoLimit);
        if (stored.suspect) {
            reject_invalid(weights_.data(), wrong_, weights_.size(), "grown weights");
        }
        const double sum = stored.sum.value();
        if (!(sum > 0.0)) {
            throw std::invalid_argument("all weights are 0");
        }
        if (!is_safe(sum)) {
            throw std::invalid_argument("total is " + shown(total) + "; expected about the sum of the grown weights, " +
                                        shown(sum) + " times that");
        }
        return result(total * sum, stored);
    }

    [[nodiscard]] UpdateResult result(double total, const Part& stored) const {
        const double sum = stored.sum.value();
        return {total, sum, sum * sum / stored.squares, stored.largest};
    }

    template <class Result, class Body>
    [[nodiscard]] std::vector<Result> per_block(std::size_t begin, std::size_t end, const Body& body) const {
        std::vector<Result> parts(block_count(end - begin));
        parallel_for(parts.size(), options_.threads, [&](std::size_t block) {
            const std::size_t first = begin + block * kBlock;
            parts[block] = body(first, std::min(kBlock, end - first));
        });
        return parts;
    }

    static Part added_up(const std::vector<Part>& parts) {
        Part out;
        for (const Part& part : parts) {
            out.add(part);
        }
        return out;
    }

    [[nodiscard]] Part sum_all() const {
        return added_up(per_block<Part>(0, weights_.size(), [&](std::size_t first, std::size_t size) {
            GrowthTally tally;  // NOLINT(misc-const-correctness): the kernel notes things in it
            const CompensatedSum sum = grown_sum(first, size, tally);
            return Part(sum, tally);
        }));
    }

    CompensatedSum grown_sum(std::size_t first, std::size_t size, GrowthTally& tally) const {
        if (uses_logarithms_) {
            return wide_.sum(weights_.data() + first, wrong_ + first, size, tally);
        }
        return kernels_.sum(weights_.data() + first, wrong_ + first, size, growth_, tally);
    }

    void use_logarithms() {
        uses_logarithms_ = true;
        Exponent largest;
        for (const Exponent& part : per_block<Exponent>(0, weights_.size(), [&](std::size_t first, std::size_t size) {
                 return wide_.largest(weights_.data() + first, wrong_ + first, size);
             })) {
            largest = wide_.larger(largest, part);
        }
        if (!largest.possible()) {
            throw std::invalid_argument("all weights are 0");
        }
        wide_.pivot(largest);
    }

    void scale_by(double scale) {
        set_scale(scale);
        if (uses_logarithms_) {
            wide_.scale(scale);
        }
    }

    // Makes the weights stand at the limit or share the rest in proportion, which then sum to 1.
    void fill_up(double limit) {
        if (!uses_logarithms_) {
            if (raise_scale(limit)) {
                return;
            }
            use_logarithms();
        }
        std::vector<Exponent> exponents;  // of the positive weights
        for (std::size_t i = 0; i < weights_.size(); ++i) {
            const Exponent own = wide_.exponent(weights_[i], wrong_[i]);
            if (own.possible()) {
                exponents.push_back(own);
            }
        }
        const double rest = 1.0 - static_cast<double>(exponents.size()) * limit;
        check_feasible(exponents.size(), rest, limit);
        if (rest >= 0.0) {
            wide_.fill_all();
        } else {
            wide_.fill_up(exponents, limit);
        }
    }

    // Raises the scale until sum_j min(v_j, limit) = 1. The sum is a concave function of the scale, made of straight
    // pieces; this is Newton's method from the left, which never passes the solution and ends on its piece after a few
    // steps. False where what is left for the weights below the limit is too small for products.
    [[nodiscard]] bool raise_scale(double limit) {
        constexpr double kLargestScale = 1e250;
        std::size_t above = 0;
        for (;;) {
            CappedSums sums;
            for (const CappedSums& part :
                 per_block<CappedSums>(0, weights_.size(), [&](std::size_t first, std::size_t size) {
                     return kernels_.capped(weights_.data() + first, wrong_ + first, size, growth_, limit);
                 })) {
                sums.below.add(part.below);
                sums.above += part.above;
            }
            if (sums.above == above) {
                return true;
            }
            above = sums.above;
            const double below = sums.below.value();
            const double rest = 1.0 - static_cast<double>(above) * limit;
            const double scale = growth_.scale * std::max(1.0, rest / below);
            if (!is_safe(below) || scale > kLargestScale) {
                return false;
            }
            set_scale(scale);
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

    void check_feasible(std::size_t positive, double rest, double limit) const {
        constexpr double kRounding = 4.0 * static_cast<double>(std::numeric_limits<Weight>::epsilon()) + 1e-12;
        if (rest > kRounding) {
            throw std::invalid_argument("a cap of " + shown(options_.cap.value_or(limit)) + " / " +
                                        std::to_string(weights_.size()) +
                                        " cannot hold with so few positive weights: " + std::to_string(positive));
        }
    }

    [[nodiscard]] Part store_all(double limit) const {
        const auto store_block = [&](std::size_t first, std::size_t size) {
            GrowthTally tally;
            const CompensatedSum sum = store(first, size, limit, tally);
            return Part(sum, tally);
        };
        if (options_.offsets.empty()) {
            return added_up(per_block<Part>(0, weights_.size(), store_block));
        }
        const auto begin = static_cast<std::size_t>(options_.offsets.front());
        const auto end = static_cast<std::size_t>(options_.offsets.back());
        Part out = added_up(per_block<Part>(0, begin, store_block));
        const SegmentTasks tasks(options_.offsets);
        std::vector<Part> parts(tasks.count());
        parallel_for(parts.size(), options_.threads,
                     [&](std::size_t task) { parts[task] = store_segments(tasks[task], limit); });
        out.add(added_up(parts));
        out.add(added_up(per_block<Part>(end, weights_.size(), store_block)));
        return out;
    }

    CompensatedSum store(std::size_t first, std::size_t size, double limit, GrowthTally& tally) const {
        if (uses_logarithms_) {
            return wide_.store(weights_.data() + first, wrong_ + first, size, limit, tally);
        }
        return kernels_.store(weights_.data() + first, wrong_ + first, size, growth_, limit, tally);
    }

    [[nodiscard]] Part store_segments(const SegmentRange& range, double limit) const {
        constexpr std::size_t kTogether = 1024;
        const auto offset = [&](std::size_t segment) { return static_cast<std::size_t>(options_.offsets[segment]); };
        GrowthTally tally;
        CompensatedSum total;
        for (std::size_t segment = range.first; segment < range.last;) {
            const std::size_t first = offset(segment);
            std::size_t end = offset(segment + 1);
            if (end - first >= kShortSegment) {
                const CompensatedSum sum = store(first, end - first, limit, tally);
                options_.segment_sums[segment++] = sum.value();
                total.add(sum);
                continue;
            }
            std::size_t last = segment + 1;  // short ones are stored together
            while (last < range.last && offset(last + 1) - end < kShortSegment && end - first < kTogether) {
                end = offset(++last);
            }
            total.add(store(first, end - first, limit, tally));
            for (; segment < last; ++segment) {
                const Weight* values = weights_.data() + offset(segment);
                options_.segment_sums[segment] = short_sum(values, offset(segment + 1) - offset(segment)).value();
            }
        }
        return Part(total, tally);
    }

    std::span<Weight> weights_;
    const Wrong* wrong_;
    UpdateOptions options_;
    GrowthKernels<Weight, Wrong> kernels_;
    Growth growth_;
    LogGrowth<Weight, Wrong> wide_;  // instead of the kernels, where these are not safe
    bool uses_logarithms_ = false;
};

}  // namespace ensemw2s
