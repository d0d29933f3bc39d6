// libFuzzer: combinations of logits of any bytes, layout, rule and temperature; and draws from them.
#include <fuzzer/FuzzedDataProvider.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "combine.hpp"

namespace {

using namespace ensemw2s;

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

struct Experts {
    std::vector<std::vector<std::byte>> memory;  // each no longer than its logits, so that a read beyond them is found
    CombineInput input;
};

// The bits of a logit: often the same one, or a special one.
std::uint32_t any_bits(FuzzedDataProvider& data, Element element) {
    constexpr std::uint32_t kSpecial[] = {0x7F800000U, 0xFF800000U, 0x7FC00000U, 0x7F7FFFFFU, 0xFF7FFFFFU, 1U, 0U};
    const bool special = data.ConsumeIntegralInRange(0, 12) == 0;
    const std::uint32_t bits = special ? data.PickValueInArray(kSpecial) : data.ConsumeIntegral<std::uint32_t>();
    const std::uint32_t moderate = special || data.ConsumeBool() ? bits : (bits & 0x81FFFFFFU) | 0x40000000U;
    return element == Element::kFloat32 ? moderate : moderate >> 16U;
}

Experts any_experts(FuzzedDataProvider& data) {
    Experts out;
    CombineInput& input = out.input;
    input.rows = data.ConsumeIntegralInRange<std::size_t>(0, 3);
    input.vocabulary = data.ConsumeIntegralInRange<std::size_t>(1, data.ConsumeBool() ? 70 : 2600);
    input.rule = data.PickValueInArray({Rule::kMixture, Rule::kProduct, Rule::kVote});
    input.temperature = data.ConsumeBool() ? 1.0 : std::abs(data.ConsumeFloatingPoint<double>());
    if (!(input.temperature > 0.0) || std::isinf(input.temperature)) {
        input.temperature = 0.5;
    }
    const auto experts = data.ConsumeIntegralInRange<std::size_t>(1, 4);
    double total = 0.0;
    for (std::size_t k = 0; k < experts; ++k) {
        input.weights.push_back(k == 0 || data.ConsumeBool() ? data.ConsumeFloatingPointInRange(1e-9, 1.0) : 0.0);
        total += input.weights.back();
    }
    for (std::size_t k = 0; k < experts; ++k) {
        input.weights[k] /= total;
        ExpertView view;
        view.element = data.PickValueInArray({Element::kFloat32, Element::kBfloat16, Element::kFloat16});
        const auto width = static_cast<std::size_t>(view.element_size());
        const bool by_column = data.ConsumeBool();
        const std::size_t count = input.rows * input.vocabulary;
        std::vector<std::byte> memory(count * width);
        const std::uint32_t usual = any_bits(data, view.element);
        for (std::size_t i = 0; i < count; ++i) {
            const std::uint32_t bits = data.ConsumeIntegralInRange(0, 3) > 0 ? usual : any_bits(data, view.element);
            std::memcpy(memory.data() + i * width, &bits, width);
        }
        const auto step = static_cast<std::ptrdiff_t>(width);
        view.row_stride = by_column ? step : step * static_cast<std::ptrdiff_t>(input.vocabulary);
        view.token_stride = by_column ? step * static_cast<std::ptrdiff_t>(input.rows) : step;
        view.data = memory.data();
        out.memory.push_back(std::move(memory));
        input.experts.push_back(view);
    }
    return out;
}

void check(const CombineInput& input, std::span<const float> log_probs, std::span<const std::int64_t> argmax) {
    for (std::size_t row = 0; row < input.rows; ++row) {
        require(argmax[row] >= 0 && static_cast<std::size_t>(argmax[row]) < input.vocabulary);
        double mass = 0.0;
        bool undefined = false;
        for (std::size_t token = 0; token < input.vocabulary; ++token) {
            const float value = log_probs[row * input.vocabulary + token];
            require(!(value > 0.0F));
            undefined |= std::isnan(value);
            mass += std::exp(static_cast<double>(value));
        }
        require(undefined || std::abs(mass - 1.0) < 1e-4 || input.temperature < 1e-7);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
    FuzzedDataProvider data(bytes, count);
    const Experts experts = any_experts(data);
    const CombineInput& input = experts.input;
    const std::size_t rows = input.rows;
    const std::size_t all = rows * input.experts.size();
    const int threads = data.ConsumeIntegralInRange(1, 2);
    std::vector<std::int64_t> argmax(rows);
    std::vector<std::int64_t> expert_argmax(all);
    std::vector<std::int64_t> targets(rows);
    std::vector<float> logprob(rows);
    std::vector<float> target_logprob(rows);
    std::vector<float> logsumexp(all);
    std::vector<float> expert_target(all);
    std::vector<float> log_probs(rows * input.vocabulary);
    for (std::int64_t& target : targets) {
        target = data.ConsumeIntegralInRange<std::int64_t>(0, static_cast<std::int64_t>(input.vocabulary) - 1);
    }
    CombineOutput output;
    output.top_k = data.ConsumeIntegralInRange<std::size_t>(0, input.vocabulary);
    std::vector<std::int64_t> ids(rows * output.top_k);
    std::vector<float> values(rows * output.top_k);
    output.argmax = argmax.data();
    output.logprob = logprob.data();
    output.expert_argmax = expert_argmax.data();
    output.logsumexp = logsumexp.data();
    output.targets = targets.data();
    output.target_logprob = target_logprob.data();
    output.expert_target_logprob = expert_target.data();
    output.log_probs = log_probs.data();
    output.topk_ids = ids.data();
    output.topk_logprob = values.data();
    combine(input, output, threads);
    check(input, log_probs, argmax);
    for (const float value : expert_target) {
        require(!(value > 0.0F));
    }

    Truncation truncation;
    if (data.ConsumeBool()) {
        truncation.top_k = data.ConsumeIntegralInRange<std::size_t>(1, input.vocabulary);
    }
    if (data.ConsumeBool()) {
        truncation.top_p = std::max(1e-300, data.ConsumeProbability<double>());
    }
    std::vector<double> uniforms(rows);
    for (double& uniform : uniforms) {
        uniform = std::min(data.ConsumeProbability<double>(), 0x1.fffffffffffffp-1);
    }
    std::vector<std::int64_t> tokens(rows);
    sample(input, truncation, uniforms.data(), tokens.data(), threads);
    for (std::size_t row = 0; row < rows; ++row) {
        require(tokens[row] >= -1 && tokens[row] < static_cast<std::int64_t>(input.vocabulary));
        require((tokens[row] == -1) == std::isnan(logprob[row]));
    }
    return 0;
}
