#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "combine.hpp"
#include "combine_row.hpp"
#include "combine_tasks.hpp"

namespace ensemw2s {
namespace {

// The first place whose running sum exceeds uniform * total, at most the last possible one; kNowhere if all are 0.
constexpr std::size_t kNowhere = std::numeric_limits<std::size_t>::max();

struct Place {
    std::size_t index = kNowhere;
    double before = 0.0;  // sum of what comes before it
};

[[nodiscard]] Place invert(std::span<const double> probabilities, double wanted, double before) {
    Place out;
    for (std::size_t i = 0; i < probabilities.size(); ++i) {
        if (probabilities[i] > 0.0) {
            out = {i, before};
            before += probabilities[i];
            if (before > wanted) {
                break;
            }
        }
    }
    return out;
}

[[nodiscard]] std::int64_t draw_from_all(CombineRow& row, double uniform) {
    const std::vector<double> blocks = row.block_probabilities();
    double total = 0.0;
    for (const double block : blocks) {
        total += block;
    }
    const double wanted = uniform * total;
    const Place block = invert(blocks, wanted, 0.0);
    const Place token = invert(row.probabilities(block.index), wanted, block.before);
    return static_cast<std::int64_t>(block.index * kBlockTokens + token.index);
}

[[nodiscard]] double total_probability(CombineRow& row) {
    double total = 0.0;
    for (const double block : row.block_probabilities()) {
        total += block;
    }
    return total;
}

struct Kept {
    std::size_t token = 0;
    double probability = 0.0;
};

// The `count` most probable tokens and their probabilities.
[[nodiscard]] std::vector<Kept> best(CombineRow& row, std::size_t count) {
    std::vector<std::size_t> tokens;
    for (const Candidate& candidate : row.most_probable(count)) {
        tokens.push_back(candidate.token);
    }
    std::vector<double> values(tokens.size());
    row.log_probs_of(tokens, values);
    std::vector<Kept> out(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i) {
        out[i] = {tokens[i], std::exp(values[i])};
    }
    return out;
}

// Drops the tokens behind the smallest set that has `top_p` of the total; false where more tokens may be needed.
[[nodiscard]] bool cut(std::vector<Kept>& kept, double total, double top_p) {
    double sum = 0.0;
    for (std::size_t i = 0; i < kept.size(); ++i) {
        const double share = kept[i].probability / total;
        sum += share;
        if (sum - share >= top_p) {
            kept.resize(i);
            return true;
        }
    }
    return false;
}

[[nodiscard]] std::vector<Kept> kept_tokens(CombineRow& row, std::size_t vocabulary, const Truncation& truncation) {
    constexpr std::size_t kFirstGuess = 64;
    constexpr std::size_t kGrowth = 8;
    if (truncation.top_k) {
        std::vector<Kept> kept = best(row, *truncation.top_k);
        if (truncation.top_p) {
            double total = 0.0;
            for (const Kept& one : kept) {
                total += one.probability;
            }
            static_cast<void>(cut(kept, total, *truncation.top_p));
        }
        return kept;
    }
    const double total = total_probability(row);
    for (std::size_t count = kFirstGuess;; count *= kGrowth) {
        std::vector<Kept> kept = best(row, std::min(count, vocabulary));
        if (cut(kept, total, truncation.top_p.value_or(1.0)) || count >= vocabulary) {
            return kept;
        }
    }
}

[[nodiscard]] std::int64_t draw_truncated(CombineRow& row, std::size_t vocabulary, const Truncation& truncation,
                                          double uniform) {
    std::vector<Kept> kept = kept_tokens(row, vocabulary, truncation);
    std::ranges::sort(kept, {}, &Kept::token);
    std::vector<double> probabilities;
    double total = 0.0;
    for (const Kept& one : kept) {
        probabilities.push_back(one.probability);
        total += one.probability;
    }
    return static_cast<std::int64_t>(kept[invert(probabilities, uniform * total, 0.0).index].token);
}

}  // namespace

void sample(const CombineInput& input, const Truncation& truncation, const double* uniforms, std::int64_t* tokens,
            int threads) {
    for_each_row(input, true, threads, [&] {
        return [&](std::size_t row, CombineRow& from) {
            if (!from.defined()) {
                tokens[row] = -1;
            } else if (truncation.top_k || truncation.top_p) {
                tokens[row] = draw_truncated(from, input.vocabulary, truncation, uniforms[row]);
            } else {
                tokens[row] = draw_from_all(from, uniforms[row]);
            }
        };
    });
}

}  // namespace ensemw2s
