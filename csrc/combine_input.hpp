// What is combined: the logits of K experts in place, whatever their type and strides.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "combine_kernels.hpp"

namespace ensemw2s {

enum class Element : std::uint8_t { kFloat32, kBfloat16, kFloat16 };

enum class Rule : std::uint8_t { kMixture, kProduct, kVote };

inline constexpr float kImpossible = -std::numeric_limits<float>::infinity();

[[nodiscard]] inline float widened(std::uint16_t bits, Element element, const CombineKernels& fast) {
    float out = 0.0F;
    (element == Element::kFloat16 ? fast.widen_float16 : fast.widen_bfloat16)(&bits, 1, &out);
    return out;
}

// Logits [N, V] of one expert. Strides are in bytes.
struct ExpertView {
    const std::byte* data = nullptr;
    std::ptrdiff_t row_stride = 0;
    std::ptrdiff_t token_stride = 0;
    Element element = Element::kFloat32;

    [[nodiscard]] std::ptrdiff_t element_size() const {
        return element == Element::kFloat32 ? std::ptrdiff_t{sizeof(float)} : std::ptrdiff_t{sizeof(std::uint16_t)};
    }

    [[nodiscard]] const std::byte* at(std::size_t row, std::size_t token) const {
        return data + static_cast<std::ptrdiff_t>(row) * row_stride + static_cast<std::ptrdiff_t>(token) * token_stride;
    }

    [[nodiscard]] float value(std::size_t row, std::size_t token, const CombineKernels& fast) const {
        if (element == Element::kFloat32) {
            float out = 0.0F;
            std::memcpy(&out, at(row, token), sizeof out);
            return out;
        }
        std::uint16_t bits = 0;
        std::memcpy(&bits, at(row, token), sizeof bits);
        return widened(bits, element, fast);
    }
};

struct CombineInput {
    std::vector<ExpertView> experts;
    std::vector<double> weights;  // they sum to 1; an expert of weight 0 has no part in the ensemble
    std::size_t rows = 0;
    std::size_t vocabulary = 0;
    Rule rule = Rule::kMixture;
    double temperature = 1.0;

    [[nodiscard]] std::size_t blocks() const { return (vocabulary + kBlockTokens - 1) / kBlockTokens; }
    [[nodiscard]] std::size_t tokens_of(std::size_t block) const {
        return std::min(kBlockTokens, vocabulary - block * kBlockTokens);
    }
};

// A block of one expert's row as float32, filled up with -inf: where it lies, or else in `buffer` (kBlockTokens).
[[nodiscard]] inline const float* read_block(const CombineInput& input, const ExpertView& expert, std::size_t row,
                                             std::size_t block, float* buffer, const CombineKernels& fast) {
    const std::size_t first = block * kBlockTokens;
    const std::size_t count = input.tokens_of(block);
    const std::byte* from = expert.at(row, first);
    if (expert.token_stride != expert.element_size()) {
        for (std::size_t i = 0; i < count; ++i) {
            buffer[i] = expert.value(row, first + i, fast);
        }
    } else if (expert.element == Element::kFloat32) {
        if (count == padded(count)) {
            return reinterpret_cast<const float*>(from);  // numpy arrays are checked to be aligned
        }
        std::memcpy(buffer, from, count * sizeof(float));
    } else {
        const auto* bits = reinterpret_cast<const std::uint16_t*>(from);
        (expert.element == Element::kFloat16 ? fast.widen_float16 : fast.widen_bfloat16)(bits, count, buffer);
    }
    std::fill(buffer + count, buffer + padded(count), kImpossible);
    return buffer;
}

}  // namespace ensemw2s
