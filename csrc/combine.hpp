// Combining the next-token distributions of K experts, and drawing from the combination.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "combine_input.hpp"

namespace ensemw2s {

// Rows of at most this many tokens are summed in float64 throughout: there, single terms show in the result.
inline constexpr std::size_t kExactTokens = 2048;

// So are those of a mixture at a temperature below 1, by which the errors of the experts' sums are divided.
[[nodiscard]] inline bool needs_exact_sums(const CombineInput& input) {
    return input.vocabulary <= kExactTokens || (input.rule == Rule::kMixture && input.temperature < 1.0);
}

// Where results go, [N] and [K, N] row after row; a null pointer where a result is not wanted.
struct CombineOutput {
    std::int64_t* argmax = nullptr;
    float* logprob = nullptr;
    std::int64_t* expert_argmax = nullptr;
    float* logsumexp = nullptr;
    const std::int64_t* targets = nullptr;
    float* target_logprob = nullptr;
    float* expert_target_logprob = nullptr;
    float* log_probs = nullptr;
    std::size_t top_k = 0;
    std::int64_t* topk_ids = nullptr;
    float* topk_logprob = nullptr;
};

// Any number of threads gives the same bits.
void combine(const CombineInput& input, const CombineOutput& output, int threads);

struct Truncation {
    std::optional<std::size_t> top_k;
    std::optional<double> top_p;
};

// Draws a token for each row by inverting the cumulative probabilities, in the order of the tokens' numbers, at
// uniforms[row] in [0, 1): the first token whose cumulative probability exceeds uniform * total. -1 in undefined rows.
void sample(const CombineInput& input, const Truncation& truncation, const double* uniforms, std::int64_t* tokens,
            int threads);

}  // namespace ensemw2s
