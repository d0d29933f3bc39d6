#include "combine_row.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace ensemw2s {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

}  // namespace

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
    product_ = {};
    bounds_.assign(padded(blocks), kNever);
    std::vector<double> sums(padded(blocks), 0.0);
    std::vector<double> references(padded(blocks), kNever);
    for (std::size_t block = 0; block < blocks; ++block) {
        const std::size_t size = padded(input_->tokens_of(block));
        gather_block(block);
        fast_->log_product(values_.data(), parts_.data(), parts_.size(), product_, size, combined_.data());
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
        product_.peak = peak;
        product_.offset = -std::log(fast_->total(sums.data(), references.data(), sums.size(), peak));
        for (double& bound : bounds_) {
            bound = (bound - peak) + product_.offset;
        }
    }
}

void CombineRow::gather_block(std::size_t block) {
    for (std::size_t i = 0; i < active_.size(); ++i) {
        values_[i] =
            read_block(*input_, input_->experts[active_[i]], row_, block, buffers_.data() + i * kBlockTokens, *fast_);
    }
}

// Combined log-probabilities without temperature; those of the vote rule's tie-break, which are the mixture's.
void CombineRow::evaluate_at(std::span<const float* const> values, std::size_t size, double* out) const {
    if (rule_ == Rule::kProduct) {
        fast_->log_product(values.data(), parts_.data(), parts_.size(), product_, size, out);
    } else if (parts_.size() == 1) {
        const Part lone{parts_[0].peak, 1.0, 0.0};
        fast_->log_product(values.data(), &lone, 1, {0.0, 1.0, parts_[0].offset}, size, out);
    } else {
        fast_->log_mixture(values.data(), parts_.data(), parts_.size(), size, out);
    }
}

void CombineRow::evaluate(std::size_t block, double* out) {
    gather_block(block);
    evaluate_at(values_, padded(input_->tokens_of(block)), out);
}

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
    for (double& value : out) {
        value = value > 0.0 ? 0.0 : value;  // by a rounding; NaN stays
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
