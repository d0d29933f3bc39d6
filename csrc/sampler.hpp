// Draws from a discrete distribution given by weights, which are read where they are.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "alias_table.hpp"
#include "errors.hpp"
#include "kernels.hpp"
#include "philox.hpp"
#include "sorted_draws.hpp"
#include "threads.hpp"
#include "without_replacement.hpp"

namespace ensemw2s {

template <class Weight>
[[nodiscard]] const WeightKernels<Weight>& weight_kernels();
template <>
[[nodiscard]] inline const WeightKernels<double>& weight_kernels<double>() {
    return kernels().weight_double;
}
template <>
[[nodiscard]] inline const WeightKernels<float>& weight_kernels<float>() {
    return kernels().weight_float;
}

// What any sampler can do, whatever the type of its weights. All methods may be called from several threads at once.
class Sampler {
public:
    Sampler() = default;
    Sampler(const Sampler&) = delete;
    Sampler(Sampler&&) = delete;
    Sampler& operator=(const Sampler&) = delete;
    Sampler& operator=(Sampler&&) = delete;
    virtual ~Sampler() = default;

    [[nodiscard]] virtual std::size_t size() const = 0;
    [[nodiscard]] virtual std::size_t positive() const = 0;  // weights above 0
    [[nodiscard]] virtual double total() const = 0;
    [[nodiscard]] virtual double probability(std::size_t category) const = 0;
    // Throws std::invalid_argument where there are not `count` categories of positive weight.
    virtual void require_positive(std::size_t count) const = 0;

    // Draws [start, start + size of out). Draw k of (seed, stream) is a function of these and of the weights: a longer
    // sample begins with a shorter one.
    virtual void draw(std::uint64_t seed, std::uint64_t stream, std::uint64_t start,
                      std::span<std::int64_t> out) const = 0;
    // Other draws, in increasing order; they also depend on how many there are.
    virtual void draw_sorted(std::uint64_t seed, std::uint64_t stream, std::span<std::int64_t> out) const = 0;
    // There must be enough categories of positive weight.
    virtual void draw_without_replacement(std::uint64_t seed, std::uint64_t stream,
                                          std::span<std::int64_t> out) const = 0;
};

template <class Weight>
class WeightedSampler final : public Sampler {
public:
    // The weights must outlive the sampler and not change. Throws std::invalid_argument where they are no weights.
    WeightedSampler(std::span<const Weight> weights, int threads)
        : weights_(weights.data()), size_(weights.size()), threads_(threads) {
        read();
        if constexpr (std::is_same_v<Weight, double>) {
            bring_into_range();
        }
    }

    [[nodiscard]] std::size_t size() const override { return size_; }
    [[nodiscard]] std::size_t positive() const override { return positive_; }
    [[nodiscard]] double total() const override { return std::ldexp(total_, scaled_by_); }
    [[nodiscard]] double probability(std::size_t category) const override {
        return static_cast<double>(weights_[category]) / total_;
    }

    void require_positive(std::size_t count) const override {
        if (count > positive_) {
            throw std::invalid_argument("cannot draw " + std::to_string(count) + " without replacement: only " +
                                        std::to_string(positive_) + " weights are positive");
        }
    }

    void draw(std::uint64_t seed, std::uint64_t stream, std::uint64_t start,
              std::span<std::int64_t> out) const override {
        const AliasTable& table = alias_table();
        const RandomStream numbers{seed, stream, Purpose::kDraw};
        parallel_for(block_count(out.size()), threads_, [&](std::size_t block) {
            const std::size_t first = block * kBlock;
            table.draw(numbers, start + first, std::min(kBlock, out.size() - first), out.data() + first);
        });
    }

    void draw_sorted(std::uint64_t seed, std::uint64_t stream, std::span<std::int64_t> out) const override {
        ensemw2s::draw_sorted(prefix_, {seed, stream, Purpose::kSortedDraw}, out, threads_);
    }

    void draw_without_replacement(std::uint64_t seed, std::uint64_t stream,
                                  std::span<std::int64_t> out) const override {
        const RandomStream numbers{seed, stream, Purpose::kWithoutReplacement};
        WeightKernels<Weight> how = weight_kernels<Weight>();
        if (far_) {
            how.keys = wide_keys<Weight>;
        }
        WithoutReplacement<Weight>(how, weights_, size_, numbers, threads_).draw(out);
    }

private:
    void read() {
        constexpr std::size_t kStep = PrefixSums<Weight>::kStep;
        constexpr std::size_t kPerTask = 4;
        std::vector<WeightSums> parts(block_count(size_, kStep));
        parallel_for(block_count(parts.size(), kPerTask), threads_, [&](std::size_t task) {
            const std::size_t end = std::min(parts.size(), (task + 1) * kPerTask);
            for (std::size_t block = task * kPerTask; block < end; ++block) {
                const std::size_t first = block * kStep;
                parts[block] = weight_kernels<Weight>().sums(weights_ + first, std::min(kStep, size_ - first));
            }
        });
        CompensatedSum sum;
        std::vector<CompensatedSum> sums;
        sums.reserve(parts.size());
        double largest = 0.0;
        std::size_t heaviest_block = 0;
        std::size_t ordinary = 0;
        positive_ = 0;
        for (std::size_t block = 0; block < parts.size(); ++block) {
            if (parts[block].invalid) {
                reject_weights(weights_, size_);
            }
            sums.push_back(parts[block].sum);
            sum.add(parts[block].sum);
            positive_ += parts[block].positive;
            ordinary += parts[block].ordinary;
            if (parts[block].largest > largest) {
                largest = parts[block].largest;
                heaviest_block = block;
            }
        }
        total_ = sum.value();
        if (positive_ == 0) {
            throw std::invalid_argument(size_ == 0 ? "weights are empty" : "all weights are 0");
        }
        if (!std::isfinite(total_)) {
            throw std::invalid_argument("the sum of the weights overflows");
        }
        far_ = largest > kLargeWeight || ordinary < positive_;
        prefix_ = PrefixSums<Weight>(weights_, size_, sums);
        heaviest_ = heaviest_block * kStep;
        while (heaviest_ + 1 < size_ && static_cast<double>(weights_[heaviest_]) < largest) {
            ++heaviest_;
        }
    }

    // Where sums are so small that their last digits are lost, works on a copy scaled up by a power of two: exactly,
    // since the total is then about 1. Large ones need none, and scaling them down would lose the small weights.
    void bring_into_range() {
        constexpr int kFar = -900;
        const int exponent = std::ilogb(total_);
        if (exponent > kFar) {
            return;
        }
        scaled_.resize(size_);
        std::transform(weights_, weights_ + size_, scaled_.begin(), [&](double w) { return std::ldexp(w, -exponent); });
        weights_ = scaled_.data();
        scaled_by_ = exponent;
        read();
    }

    const AliasTable& alias_table() const {
        if (size_ > AliasTable::kMaxSize) {
            throw std::invalid_argument("more than 2**32 categories: draw with sorted=True, which needs no table");
        }
        std::call_once(table_built_,
                       [&] { table_ = std::make_unique<AliasTable>(weights_, size_, total_, heaviest_); });
        return *table_;
    }

    const Weight* weights_;
    std::size_t size_;
    int threads_;
    double total_ = 0.0;
    int scaled_by_ = 0;
    std::size_t positive_ = 0;
    bool far_ = false;  // some keys would leave the range of double
    std::size_t heaviest_ = 0;
    std::vector<Weight> scaled_;
    PrefixSums<Weight> prefix_;
    mutable std::once_flag table_built_;
    mutable std::unique_ptr<AliasTable> table_;
};

}  // namespace ensemw2s
