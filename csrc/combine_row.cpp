#include "combine_row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace ensemw2s {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr double kShareGrid = 0x1p20;  // shares of the vote rule that agree to this are equal

[[nodiscard]] bool in_order(const Candidate& a, const Candidate& b) {
    return a.before(b);
}

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
    const bool has_nan = std::any_of(table.sums.begin(), table.sums.end(), [](double sum) { return std::isnan(sum); });
    ExpertRow out;
    out.peak = static_cast<double>(*largest);
    if (has_nan || !std::isfinite(*largest)) {
        if (has_nan || (*largest > 0.0F && holds_nan(input, row, expert, fast))) {
            out.peak = std::numeric_limits<double>::quiet_NaN();
        }
        return out;
    }
    out.defined = true;
    out.mass = fast.total(table.sums.data(), table.references.data(), table.sums.size(), out.peak);
    out.log_mass = std::log(out.mass);
    const auto block = static_cast<std::size_t>(largest - table.largest.data());
    float buffer[kBlockTokens];
    const float* values = read_block(input, input.experts[expert], row, block, static_cast<float*>(buffer), fast);
    out.argmax = block * kBlockTokens + first_equal(values, input.tokens_of(block), *largest);
    return out;
}

CombineRow::CombineRow(const CombineInput& input, bool exact)
    : input_(&input),
      fast_(&combine_kernels()),
      rule_(input.rule),
      exact_(exact),
      experts_(input.experts.size()),
      buffers_(input.experts.size() * kBlockTokens),
      combined_(kBlockTokens),
      group_tops_(input.experts.size() * kPaddedTokens) {
    for (std::size_t k = 0; k < input.weights.size(); ++k) {
        if (input.weights[k] > 0.0) {
            active_.push_back(k);
        }
    }
    parts_.resize(active_.size());
    values_.resize(active_.size());
    group_values_.resize(active_.size());
    if (rule_ == Rule::kProduct && active_.size() == 1) {
        rule_ = Rule::kMixture;  // the same for one expert
    }
}

void CombineRow::read(std::size_t row) {
    if (tables_.empty()) {
        tables_.assign(input_->experts.size(), BlockTable(input_->blocks()));
    }
    for (std::size_t k = 0; k < experts_.size(); ++k) {
        read_blocks(*input_, row, k, 0, input_->blocks(), exact_, tables_[k]);
    }
    take(row, tables_);
}

void CombineRow::take(std::size_t row, std::span<const BlockTable> tables) {
    row_ = row;
    read_tables_ = tables;
    tempering_known_ = false;
    bounds_.clear();
    for (std::size_t k = 0; k < experts_.size(); ++k) {
        experts_[k] = summarise(*input_, row, k, tables[k]);
    }
    defined_ = std::ranges::all_of(active_, [this](std::size_t k) { return experts_[k].defined; });
    if (!defined_) {
        return;
    }
    for (std::size_t i = 0; i < active_.size(); ++i) {
        const double weight = input_->weights[active_[i]];
        const ExpertRow& own = experts_[active_[i]];
        parts_[i] = {own.peak, weight, std::log(weight) - own.log_mass};
    }
    if (rule_ == Rule::kProduct) {
        normalise_product();
    } else if (rule_ == Rule::kVote) {
        collect_votes();
    }
}

float CombineRow::logit(std::size_t expert, std::size_t token) const {
    return input_->experts[expert].value(row_, token, *fast_);
}

void CombineRow::collect_votes() {
    votes_.clear();
    for (const std::size_t k : active_) {
        const std::size_t token = experts_[k].argmax;
        const auto known = std::ranges::find(votes_, token, &Vote::token);
        if (known == votes_.end()) {
            votes_.push_back({token, input_->weights[k]});
        } else {
            known->share += input_->weights[k];
        }
    }
}

// The product's blocks are bounded by their own maxima, which this computes on the way.
void CombineRow::normalise_product() {
    const std::size_t blocks = input_->blocks();
    product_norm_ = 0.0;
    bounds_.assign(padded(blocks), kNever);
    std::vector<double> sums(padded(blocks), 0.0);
    std::vector<double> references(padded(blocks), kNever);
    for (std::size_t block = 0; block < blocks; ++block) {
        const std::size_t size = padded(input_->tokens_of(block));
        gather_block(block);
        fast_->log_product(values_.data(), parts_.data(), parts_.size(), 0.0, size, combined_.data());
        const double top = fast_->largest_double(combined_.data(), size);
        bounds_[block] = top;
        if (top > kNever) {
            sums[block] = fast_->sum_exponentials(combined_.data(), size, top, 1.0);
            references[block] = top;
        }
    }
    const double peak = *std::ranges::max_element(bounds_);
    defined_ = std::isfinite(peak);
    if (defined_) {
        product_norm_ = peak + std::log(fast_->total(sums.data(), references.data(), sums.size(), peak));
        for (double& bound : bounds_) {
            bound -= product_norm_;
        }
    }
}

void CombineRow::gather_block(std::size_t block) {
    for (std::size_t i = 0; i < active_.size(); ++i) {
        values_[i] = read_block(*input_, input_->experts[active_[i]], row_, block, buffers_.data() + i * kBlockTokens,
                                *fast_);
    }
}

// Combined log-probabilities without temperature; those of the vote rule's tie-break, which are the mixture's.
void CombineRow::evaluate_at(std::span<const float* const> values, std::size_t size, double* out) const {
    if (rule_ == Rule::kProduct) {
        fast_->log_product(values.data(), parts_.data(), parts_.size(), -product_norm_, size, out);
    } else if (parts_.size() == 1) {
        const Part lone{parts_[0].peak, 1.0, 0.0};
        fast_->log_product(values.data(), &lone, 1, parts_[0].offset, size, out);
    } else {
        fast_->log_mixture(values.data(), parts_.data(), parts_.size(), size, out);
    }
}

void CombineRow::evaluate(std::size_t block, double* out) {
    gather_block(block);
    evaluate_at(values_, padded(input_->tokens_of(block)), out);
}

// ---- order -------------------------------------------------------------------------------------------------------

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
    std::fill(tops.begin(), tops.end(), kImpossible);
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
    found_ = out;
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

// ---- log-probabilities -------------------------------------------------------------------------------------------

const Tempering& CombineRow::tempering() {
    if (tempering_known_) {
        return tempering_;
    }
    tempering_known_ = true;
    tempering_ = {};
    if (input_->temperature == 1.0) {
        return tempering_;
    }
    tempering_.temperature = std::max(input_->temperature, std::numeric_limits<double>::min());
    double top = kNever;
    double sum = 0.0;
    const auto include = [&](double other_top, double other_sum) {  // both sums relative to their own top
        if (other_top > top) {
            sum = (top > kNever ? sum * std::exp((top - other_top) / tempering_.temperature) : 0.0) + other_sum;
            top = other_top;
        } else if (other_top > kNever) {
            sum += other_sum * std::exp((other_top - top) / tempering_.temperature);
        }
    };
    if (rule_ == Rule::kVote) {
        for (const Vote& vote : votes_) {
            include(std::log(vote.share), 1.0);
        }
    } else {
        for (std::size_t block = 0; block < input_->blocks(); ++block) {
            const std::size_t size = padded(input_->tokens_of(block));
            evaluate(block, combined_.data());
            const double block_top = fast_->largest_double(combined_.data(), size);
            if (block_top > kNever) {
                include(block_top, fast_->sum_exponentials(combined_.data(), size, block_top, tempering_.temperature));
            }
        }
    }
    tempering_.top = top;
    tempering_.log_norm = std::log(sum);
    return tempering_;
}

void CombineRow::log_probs_of(std::span<const std::size_t> tokens, std::span<double> out) {
    const Tempering& how = tempering();
    if (rule_ == Rule::kVote) {
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            const auto vote = std::ranges::find(votes_, tokens[i], &Vote::token);
            out[i] = vote == votes_.end() ? kNever : std::log(vote->share);
        }
    } else {
        for (std::size_t done = 0; done < tokens.size(); done += kBlockTokens) {
            const std::size_t count = std::min(kBlockTokens, tokens.size() - done);
            for (std::size_t i = 0; i < active_.size(); ++i) {
                float* column = buffers_.data() + i * kBlockTokens;
                for (std::size_t j = 0; j < count; ++j) {
                    column[j] = logit(active_[i], tokens[done + j]);
                }
                std::fill(column + count, column + padded(count), kImpossible);
                values_[i] = column;
            }
            evaluate_at(values_, padded(count), combined_.data());
            std::copy_n(combined_.begin(), count, out.begin() + static_cast<std::ptrdiff_t>(done));
        }
    }
    if (input_->temperature != 1.0) {
        for (double& value : out) {
            value = (value - how.top) / how.temperature - how.log_norm;
        }
    }
}

void CombineRow::write_log_probs(float* out) {
    if (rule_ == Rule::kVote) {
        std::fill(out, out + input_->vocabulary, kImpossible);
        for (const Vote& vote : votes_) {
            double value = 0.0;
            log_probs_of({&vote.token, 1}, {&value, 1});
            out[vote.token] = static_cast<float>(value);
        }
        return;
    }
    const Tempering& how = tempering();
    float last[kBlockTokens];
    for (std::size_t block = 0; block < input_->blocks(); ++block) {
        const std::size_t tokens = input_->tokens_of(block);
        evaluate(block, combined_.data());
        const bool whole = tokens == padded(tokens);
        float* to = out + block * kBlockTokens;
        fast_->tempered(combined_.data(), padded(tokens), how, whole ? to : static_cast<float*>(last));
        if (!whole) {
            std::copy_n(static_cast<const float*>(last), tokens, to);
        }
    }
}

std::span<const double> CombineRow::probabilities(std::size_t block) {
    const std::size_t tokens = input_->tokens_of(block);
    const std::size_t size = padded(tokens);
    const Tempering& how = tempering();
    if (rule_ == Rule::kVote) {
        std::fill(combined_.begin(), combined_.begin() + static_cast<std::ptrdiff_t>(size), 0.0);
        for (const Vote& vote : votes_) {
            if (vote.token / kBlockTokens == block) {
                double value = 0.0;
                log_probs_of({&vote.token, 1}, {&value, 1});
                combined_[vote.token % kBlockTokens] = std::exp(value);
            }
        }
    } else {
        evaluate(block, combined_.data());
        fast_->exponentials(combined_.data(), size, how, combined_.data());
    }
    return {combined_.data(), tokens};
}

void CombineRow::collect(std::vector<Weighted>& out) {
    const Tempering& how = tempering();
    out.resize(input_->vocabulary);
    double values[kBlockTokens];
    for (std::size_t block = 0; block < input_->blocks(); ++block) {
        evaluate(block, combined_.data());
        fast_->exponentials(combined_.data(), padded(input_->tokens_of(block)), how, static_cast<double*>(values));
        const std::size_t first = block * kBlockTokens;
        for (std::size_t i = 0; i < input_->tokens_of(block); ++i) {
            const float rank = active_.size() == 1 ? values_[0][i] : static_cast<float>(combined_[i]);
            out[first + i] = {{rank, first + i}, values[i]};
        }
    }
}

std::vector<double> CombineRow::block_probabilities() {
    std::vector<double> out(input_->blocks(), 0.0);
    if (rule_ == Rule::kMixture && input_->temperature == 1.0) {
        for (const std::size_t k : active_) {
            const BlockTable& table = read_tables_[k];
            for (std::size_t block = 0; block < out.size(); ++block) {
                out[block] += input_->weights[k] * (table.sums[block] / experts_[k].mass) *
                              std::exp(table.references[block] - experts_[k].peak);
            }
        }
        return out;
    }
    for (std::size_t block = 0; block < out.size(); ++block) {
        const std::span<const double> values = probabilities(block);
        out[block] = std::accumulate(values.begin(), values.end(), 0.0);
    }
    return out;
}

}  // namespace ensemw2s
