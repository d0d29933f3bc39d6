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

// The `count` most probable tokens.
[[nodiscard]] std::vector<Weighted> best(CombineRow& row, std::size_t count) {
    const std::span<const Candidate> found = row.most_probable(count);
    std::vector<Weighted> out(found.size());
    std::vector<std::size_t> tokens(found.size());
    std::vector<double> values(found.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        out[i].candidate = found[i];
        tokens[i] = found[i].token;
    }
    row.log_probs_of(tokens, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
        out[i].probability = std::exp(values[i]);
    }
    return out;
}

// Drops the tokens behind the smallest set that has `top_p` of the total; false where more tokens may be needed.
[[nodiscard]] bool cut(std::vector<Weighted>& kept, double total, double top_p) {
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

// The most probable tokens, in order: enough of them to hold `mass`. Halves what is open again and again, as when a
// median is sought.
[[nodiscard]] std::vector<Weighted> heaviest(CombineRow& row, double mass) {
    constexpr std::size_t kSmall = 256;
    std::vector<Weighted> all;
    row.collect(all);
    const auto in_order = [](const Weighted& a, const Weighted& b) { return a.candidate.before(b.candidate); };
    auto first = all.begin();
    auto last = all.end();
    double before = 0.0;
    while (last - first > static_cast<std::ptrdiff_t>(kSmall)) {
        const auto middle = first + (last - first) / 2;
        std::nth_element(first, middle, last, in_order);
        double half = 0.0;
        for (auto it = first; it != middle; ++it) {
            half += it->probability;
        }
        if (before + half > mass) {
            last = middle;
        } else {
            before += half;
            first = middle;
        }
    }
    all.erase(last, all.end());
    std::ranges::sort(all, in_order);
    return all;
}

[[nodiscard]] double total_of(const std::vector<Weighted>& tokens) {
    double total = 0.0;
    for (const Weighted& one : tokens) {
        total += one.probability;
    }
    return total;
}

[[nodiscard]] std::vector<Weighted> kept_tokens(CombineRow& row, const CombineInput& input,
                                                const Truncation& truncation) {
    constexpr std::size_t kFirstGuess = 512;
    constexpr double kMargin = 1e-9;
    if (truncation.top_k) {
        std::vector<Weighted> kept = best(row, *truncation.top_k);
        if (truncation.top_p) {
            static_cast<void>(cut(kept, total_of(kept), *truncation.top_p));
        }
        return kept;
    }
    const double top_p = truncation.top_p.value_or(1.0);
    const double total = total_probability(row);
    std::vector<Weighted> kept = best(row, std::min(kFirstGuess, input.vocabulary));
    if (cut(kept, total, top_p) || kept.size() == input.vocabulary) {
        return kept;
    }
    kept = input.rule == Rule::kVote ? best(row, input.vocabulary) : heaviest(row, (top_p + kMargin) * total);
    static_cast<void>(cut(kept, total, top_p));
    return kept;
}

[[nodiscard]] std::int64_t draw_truncated(CombineRow& row, const CombineInput& input, const Truncation& truncation,
                                          double uniform) {
    std::vector<Weighted> kept = kept_tokens(row, input, truncation);
    std::ranges::sort(kept, {}, [](const Weighted& one) { return one.candidate.token; });
    std::vector<double> probabilities;
    probabilities.reserve(kept.size());
    for (const Weighted& one : kept) {
        probabilities.push_back(one.probability);
    }
    const double total = total_of(kept);
    return static_cast<std::int64_t>(kept[invert(probabilities, uniform * total, 0.0).index].candidate.token);
}

}  // namespace

void sample(const CombineInput& input, const Truncation& truncation, const double* uniforms, std::int64_t* tokens,
            int threads) {
    for_each_row(input, true, threads, [&] {
        return [&](std::size_t row, CombineRow& from) {
            if (!from.defined()) {
                tokens[row] = -1;
            } else if (truncation.top_k || truncation.top_p) {
                tokens[row] = draw_truncated(from, input, truncation, uniforms[row]);
            } else {
                tokens[row] = draw_from_all(from, uniforms[row]);
            }
        };
    });
}

}  // namespace ensemw2s
