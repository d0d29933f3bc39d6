// Errors in values, raised in Python as ValueError. They name the first place at fault and what was expected there.
#pragma once

#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace ensemw2s {

[[nodiscard]] inline std::string shown(double value) {
    char text[32];
    const std::to_chars_result end = std::to_chars(text, text + sizeof text, value);
    return {text, end.ptr};
}

[[noreturn]] inline void bad_value(std::string_view name, std::size_t index, double value, std::string_view expected) {
    throw std::invalid_argument(std::string(name) + "[" + std::to_string(index) + "] is " + shown(value) +
                                "; expected " + std::string(expected));
}

// Names the first value that is not a weight, or of `wrong` that is not in [0, 1], and throws; returns where all are.
template <class Weight, class Wrong>
void reject_invalid(const Weight* weights, const Wrong* wrong, std::size_t size, std::string_view name) {
    for (std::size_t i = 0; i < size; ++i) {
        const auto weight = static_cast<double>(weights[i]);
        const auto flag = static_cast<double>(wrong[i]);
        if (!(flag >= 0.0 && flag <= 1.0)) {
            bad_value("wrong", i, flag, std::is_same_v<Wrong, std::uint8_t> ? "0 or 1" : "a number in [0, 1]");
        }
        if (!(weight >= 0.0) || std::isinf(weight)) {
            bad_value(name, i, weight, "a finite number that is not negative");
        }
    }
}

// Names the first value that is not a weight, and throws.
template <class Weight>
void reject_weights(const Weight* weights, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
        const auto weight = static_cast<double>(weights[i]);
        if (!(weight >= 0.0) || std::isinf(weight)) {
            bad_value("weights", i, weight, "a finite number that is not negative");
        }
    }
    throw std::invalid_argument("weights changed while they were read");
}

}  // namespace ensemw2s
