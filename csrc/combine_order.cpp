// The most probable tokens, without looking at most of the others.
#include "combine_row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace ensemw2s {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr double kShareGrid = 0x1p20;  // shares of the vote rule that agree to this are equal

[[nodiscard]] bool in_order(const Candidate& a, const Candidate& b) {
    return a.before(b);
}

}  // namespace

void CombineRow::bound_blocks() {
    const std::span<const BlockTable> tables = read_tables_;
    if (!bounds_.empty()) {
        return;
    }
    const std::size_t size = tables[active_[0]].largest.size();
    bounds_.assign(size, kNever);
    if (active_.size() == 1) {
        std::ranges::copy(tables[active_[0]].largest, bounds_.begin());
        return;
    }
    std::vector<const float*> largest;
    largest.reserve(active_.size());
    for (const std::size_t k : active_) {
        largest.push_back(tables[k].largest.data());
    }
    fast_->log_mixture(largest.data(), parts_.data(), parts_.size(), size, bounds_.data());
}

void CombineRow::offer(Candidate candidate) {
    if (!full_ || candidate.before(last_)) {
        found_.push_back(candidate);
    }
}

// Drops all but the `count` best; not every time where that takes long.
void CombineRow::settle(std::size_t count, bool now) {
    constexpr std::size_t kAtOnce = 1024;
    const bool due = now || !full_ || count <= kAtOnce || found_.size() >= count + count / 2;
    if (due && found_.size() >= count) {
        std::ranges::nth_element(found_, found_.begin() + static_cast<std::ptrdiff_t>(count) - 1, in_order);
        found_.resize(count);
        last_ = found_.back();
        full_ = true;
    }
}

// Whether tokens from `first` on, none above `bound`, can be among the best.
bool CombineRow::promising(double bound, std::size_t first) const {
    if (!full_) {
        return true;
    }
    // bounds and tokens are rounded alike, but not always in the same direction
    const bool exact = active_.size() == 1 || !std::isfinite(bound);
    const auto rank = static_cast<float>(exact ? bound : bound + 1e-14 * (1.0 + std::abs(bound)));
    return rank > last_.rank || (rank == last_.rank && first < last_.token);
}

// Groups of kPaddedTokens have bounds of their own.
void CombineRow::offer_block(std::size_t block, std::size_t count) {
    constexpr std::size_t kGroups = kBlockTokens / kPaddedTokens;
    gather_block(block);
    const std::size_t first = block * kBlockTokens;
    const std::size_t tokens = input_->tokens_of(block);
    if (active_.size() == 1) {  // ordered by its logits
        for (std::size_t i = 0; i < tokens; ++i) {
            offer({values_[0][i], first + i});
        }
        settle(count, false);
        return;
    }
    const std::size_t groups = padded(tokens) / kPaddedTokens;
    std::vector<float>& tops = group_tops_;
    std::ranges::fill(tops, kImpossible);
    for (std::size_t i = 0; i < active_.size(); ++i) {
        for (std::size_t group = 0; group < groups; ++group) {
            tops[i * kPaddedTokens + group] = fast_->largest(values_[i] + group * kPaddedTokens, kPaddedTokens);
        }
        group_values_[i] = tops.data() + i * kPaddedTokens;
    }
    double bounds[kPaddedTokens];
    evaluate_at(group_values_, kPaddedTokens / 2, static_cast<double*>(bounds));
    static_assert(kGroups <= kPaddedTokens / 2);
    for (std::size_t group = 0; group < groups; ++group) {
        const std::size_t start = group * kPaddedTokens;
        if (!promising(bounds[group], first + start)) {
            continue;
        }
        for (std::size_t i = 0; i < active_.size(); ++i) {
            group_values_[i] = values_[i] + start;
        }
        evaluate_at(group_values_, kPaddedTokens, combined_.data());
        for (std::size_t i = 0; i < std::min(kPaddedTokens, tokens - start); ++i) {
            offer({static_cast<float>(combined_[i]), first + start + i});
        }
        settle(count, false);
    }
}

// Blocks are visited in the order of their bounds until none can hold one of the best tokens any more.
void CombineRow::most_probable_by_rank(std::size_t count) {
    found_.clear();
    full_ = false;
    const std::size_t blocks = input_->blocks();
    bound_blocks();
    order_.resize(blocks);
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    const auto later = [this](std::size_t a, std::size_t b) {
        return bounds_[a] < bounds_[b] || (bounds_[a] == bounds_[b] && a > b);
    };
    std::ranges::make_heap(order_, later);
    for (std::size_t left = blocks; left > 0; --left) {
        std::ranges::pop_heap(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(left), later);
        const std::size_t block = order_[left - 1];
        if (full_ && !promising(bounds_[block], 0)) {
            break;
        }
        if (promising(bounds_[block], block * kBlockTokens)) {
            offer_block(block, count);
        }
    }
    settle(count, true);
    std::ranges::sort(found_, in_order);
}

// Chosen tokens come first, by their shares; what is left is ordered by the mixture.
void CombineRow::votes_first(std::size_t count) {
    struct Chosen {
        double share;
        Candidate candidate;
    };
    std::vector<Chosen> chosen;
    for (const Vote& vote : votes_) {
        const double share = std::nearbyint(vote.share * kShareGrid);
        if (share > 0.0) {
            chosen.push_back({share, {0.0F, vote.token}});
        }
    }
    if (active_.size() == 1) {
        chosen[0].candidate.rank = logit(active_[0], votes_[0].token);
    }
    std::vector<float> columns(active_.size() * padded(chosen.size()), kImpossible);
    std::vector<double> ranks(padded(chosen.size()));
    for (std::size_t i = 0; i < active_.size(); ++i) {
        values_[i] = columns.data() + i * padded(chosen.size());
        for (std::size_t j = 0; j < chosen.size(); ++j) {
            columns[i * padded(chosen.size()) + j] = logit(active_[i], chosen[j].candidate.token);
        }
    }
    if (active_.size() > 1) {
        evaluate_at(values_, padded(chosen.size()), ranks.data());
        for (std::size_t j = 0; j < chosen.size(); ++j) {
            chosen[j].candidate.rank = static_cast<float>(ranks[j]);
        }
    }
    std::ranges::sort(chosen, [](const Chosen& a, const Chosen& b) {
        return a.share > b.share || (a.share == b.share && a.candidate.before(b.candidate));
    });
    std::vector<Candidate> out;
    for (const Chosen& one : chosen) {
        if (out.size() < count) {
            out.push_back(one.candidate);
        }
    }
    if (out.size() < count) {
        most_probable_by_rank(count);
        for (const Candidate& other : found_) {
            if (out.size() < count && std::ranges::find(chosen, other.token, [](const Chosen& one) {
                                          return one.candidate.token;
                                      }) == chosen.end()) {
                out.push_back(other);
            }
        }
    }
    found_ = std::move(out);
}

std::span<const Candidate> CombineRow::most_probable(std::size_t count) {
    if (rule_ == Rule::kVote) {
        votes_first(count);
    } else if (count == 1 && active_.size() == 1) {
        const std::size_t token = experts_[active_[0]].argmax;
        found_.assign(1, {static_cast<float>(experts_[active_[0]].peak), token});
    } else {
        most_probable_by_rank(count);
    }
    return found_;
}

}  // namespace ensemw2s
