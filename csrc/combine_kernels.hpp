// The inner loops of combining experts, compiled for several instruction sets like those of kernels.hpp. All that fuse
// multiplication and addition (AVX2, AVX-512 and arm64) give the same bits; plain x86-64 differs in the last digits.
// They see float32 logits only: narrower types are widened a block at a time, in the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace ensemw2s {

// Tokens in a block: the unit of widening, of the maxima that prune the search, and of float32 sums. Changing it
// changes bits.
inline constexpr std::size_t kBlockTokens = 512;

// Blocks are filled up with -inf to a multiple of this many tokens.
inline constexpr std::size_t kPaddedTokens = 64;

[[nodiscard]] constexpr std::size_t padded(std::size_t size) {
    return (size + kPaddedTokens - 1) / kPaddedTokens * kPaddedTokens;
}

// sum * exp(reference) is what was summed.
struct ScaledSum {
    double sum = 0.0;
    double reference = 0.0;
};

// How the logits x of an expert enter a distribution, (x - peak) * factor + offset; a mixture leaves the factor out.
struct Part {
    double peak = 0.0;
    double factor = 1.0;
    double offset = 0.0;
};

// Log-probabilities p become (p - top) / temperature - log_norm.
struct Tempering {
    double top = 0.0;
    double temperature = 1.0;
    double log_norm = 0.0;
};

// Every `size` is a multiple of kPaddedTokens, except in the two conversions.
struct CombineKernels {
    std::string_view name;
    void (*widen_bfloat16)(const std::uint16_t* from, std::size_t size, float* to);
    void (*widen_float16)(const std::uint16_t* from, std::size_t size, float* to);
    // The largest value; -inf where all are NaN.
    float (*largest)(const float* values, std::size_t size);
    // Sum of exp(values) for size <= kBlockTokens and values <= `largest` < inf, NaN where one is NaN. The fast one
    // works in float32: terms are good to 1.1e-7 and are added up in pairs. The exact one works in float64.
    ScaledSum (*sum_fast)(const float* values, std::size_t size, float largest);
    ScaledSum (*sum_exact)(const float* values, std::size_t size, float largest);
    // Sum of sums[i] * exp(references[i] - peak).
    double (*total)(const double* sums, const double* references, std::size_t size, double peak);
    // out = log of the sum of exp((x_k - peak_k) + offset_k)
    void (*log_mixture)(const float* const* experts, const Part* parts, std::size_t count, std::size_t size,
                        double* out);
    // out = (sum of (x_k - peak_k) * factor_k, less the peak of `whole`) plus its offset: in two steps, since a large
    // peak would swallow the offset
    void (*log_product)(const float* const* experts, const Part* parts, std::size_t count, const Part& whole,
                        std::size_t size, double* out);
    double (*largest_double)(const double* values, std::size_t size);
    // Sum of exp((values - top) / temperature) for values <= top.
    double (*sum_exponentials)(const double* values, std::size_t size, double top, double temperature);
    // out = exp of the tempered values
    void (*exponentials)(const double* values, std::size_t size, const Tempering& tempering, double* out);
    // out = the tempered values, none above 0
    void (*tempered)(const double* values, std::size_t size, const Tempering& tempering, float* out);
};

// The ones for the instruction set of kernels().
[[nodiscard]] const CombineKernels& combine_kernels();

}  // namespace ensemw2s
