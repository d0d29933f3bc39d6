#include "combine.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "combine_row.hpp"
#include "combine_tasks.hpp"
#include "large_memory.hpp"

namespace ensemw2s {
namespace {

constexpr float kUndefined = std::numeric_limits<float>::quiet_NaN();

class Writer {
public:
    Writer(const CombineInput& input, const CombineOutput& output) : input_(&input), output_(&output) {}

    void write(std::size_t row, CombineRow& from) {
        write_experts(row, from);
        if (!from.defined()) {
            write_undefined(row);
            return;
        }
        const std::size_t count = std::max<std::size_t>(1, output_->top_k);
        tokens_.clear();
        for (const Candidate& candidate : from.most_probable(count)) {
            tokens_.push_back(candidate.token);
        }
        if (output_->targets != nullptr) {
            tokens_.push_back(static_cast<std::size_t>(output_->targets[row]));
        }
        values_.resize(tokens_.size());
        from.log_probs_of(tokens_, values_);
        output_->argmax[row] = static_cast<std::int64_t>(tokens_[0]);
        output_->logprob[row] = static_cast<float>(values_[0]);
        if (output_->targets != nullptr) {
            output_->target_logprob[row] = static_cast<float>(values_.back());
        }
        for (std::size_t i = 0; i < output_->top_k; ++i) {
            output_->topk_ids[row * output_->top_k + i] = static_cast<std::int64_t>(tokens_[i]);
            output_->topk_logprob[row * output_->top_k + i] = static_cast<float>(values_[i]);
        }
        if (output_->log_probs != nullptr) {
            from.write_log_probs(output_->log_probs + row * input_->vocabulary);
        }
    }

private:
    void write_experts(std::size_t row, const CombineRow& from) {
        for (std::size_t k = 0; k < input_->experts.size(); ++k) {
            const ExpertRow& expert = from.experts()[k];
            const std::size_t at = k * input_->rows + row;
            output_->expert_argmax[at] = static_cast<std::int64_t>(expert.argmax);
            output_->logsumexp[at] = static_cast<float>(expert.log_sum_exp());
            if (output_->targets != nullptr) {
                const auto target = static_cast<std::size_t>(output_->targets[row]);
                const auto given = static_cast<double>(from.logit(k, target));
                output_->expert_target_logprob[at] =
                    expert.defined ? static_cast<float>((given - expert.peak) - expert.log_mass) : kUndefined;
            }
        }
    }

    void write_undefined(std::size_t row) {
        output_->argmax[row] = 0;
        output_->logprob[row] = kUndefined;
        if (output_->targets != nullptr) {
            output_->target_logprob[row] = kUndefined;
        }
        for (std::size_t i = 0; i < output_->top_k; ++i) {
            output_->topk_ids[row * output_->top_k + i] = static_cast<std::int64_t>(i);
            output_->topk_logprob[row * output_->top_k + i] = kUndefined;
        }
        if (output_->log_probs != nullptr) {
            std::fill_n(output_->log_probs + row * input_->vocabulary, input_->vocabulary, kUndefined);
        }
    }

    const CombineInput* input_;
    const CombineOutput* output_;
    std::vector<std::size_t> tokens_;
    std::vector<double> values_;
};

}  // namespace

void combine(const CombineInput& input, const CombineOutput& output, int threads) {
    if (output.log_probs != nullptr) {
        prefer_large_pages(output.log_probs, input.rows * input.vocabulary * sizeof(float));
    }
    for_each_row(input, needs_exact_sums(input), threads, [&] {
        return [writer = Writer(input, output)](std::size_t row, CombineRow& from) mutable { writer.write(row, from); };
    });
}

}  // namespace ensemw2s
