// The first read of the logits.
#include "combine_row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ensemw2s {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

[[nodiscard]] std::size_t first_equal(const float* values, std::size_t size, float wanted) {
    return static_cast<std::size_t>(std::find(values, values + size, wanted) - values);
}

[[nodiscard]] bool holds_nan(const CombineInput& input, std::size_t row, std::size_t expert,
                             const CombineKernels& fast) {
    float buffer[kBlockTokens];
    for (std::size_t block = 0; block < input.blocks(); ++block) {
        const float* values = read_block(input, input.experts[expert], row, block, static_cast<float*>(buffer), fast);
        if (std::any_of(values, values + input.tokens_of(block), [](float value) { return std::isnan(value); })) {
            return true;
        }
    }
    return false;
}

}  // namespace

void read_blocks(const CombineInput& input, std::size_t row, std::size_t expert, std::size_t first, std::size_t last,
                 bool exact, BlockTable& table) {
    const CombineKernels& fast = combine_kernels();
    const ExpertView& view = input.experts[expert];
    alignas(64) float buffer[kBlockTokens];
    for (std::size_t block = first; block < last; ++block) {
        const float* values = read_block(input, view, row, block, static_cast<float*>(buffer), fast);
        const std::size_t size = padded(input.tokens_of(block));
        const float largest = fast.largest(values, size);
        table.largest[block] = largest;
        table.sums[block] = 0.0;
        table.references[block] = kNever;
        if (largest < std::numeric_limits<float>::infinity()) {  // else the row is undefined
            const ScaledSum sum = (exact ? fast.sum_exact : fast.sum_fast)(values, size, largest);
            if (sum.sum != 0.0) {
                table.sums[block] = sum.sum;
                table.references[block] = sum.reference;
            }
        }
    }
}

ExpertRow summarise(const CombineInput& input, std::size_t row, std::size_t expert, const BlockTable& table) {
    const CombineKernels& fast = combine_kernels();
    const std::size_t blocks = input.blocks();
    const auto* const largest = std::max_element(table.largest.data(), table.largest.data() + blocks);
    const bool has_nan = std::ranges::any_of(table.sums, [](double sum) { return std::isnan(sum); });
    ExpertRow out;
    out.peak = static_cast<double>(*largest);
    if (has_nan || !std::isfinite(*largest)) {
        if (has_nan || (*largest > 0.0F && holds_nan(input, row, expert, fast))) {
            out.peak = std::numeric_limits<double>::quiet_NaN();
        }
        return out;
    }
    out.defined = true;
    // the term of the peak is 1, whatever the sum of the others was rounded to
    out.mass = std::max(1.0, fast.total(table.sums.data(), table.references.data(), table.sums.size(), out.peak));
    out.log_mass = std::log(out.mass);
    const auto block = static_cast<std::size_t>(largest - table.largest.data());
    float buffer[kBlockTokens];
    const float* values = read_block(input, input.experts[expert], row, block, static_cast<float*>(buffer), fast);
    out.argmax = block * kBlockTokens + first_equal(values, input.tokens_of(block), *largest);
    return out;
}

}  // namespace ensemw2s
