// libFuzzer: weight updates, weighted errors and segment sums of any bytes. What is accepted must be right.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "boost_update.hpp"
#include "segment_sum.hpp"
#include "weighted_error.hpp"

namespace {

using namespace ensemw2s;

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

// Mostly numbers that are allowed, of any size; sometimes any bits.
template <class Value>
Value any_weight(FuzzedDataProvider& data) {
    switch (data.ConsumeIntegralInRange(0, 6)) {
        case 0:
            return Value{0};
        case 1:
            return Value{1};
        case 2:
            return std::numeric_limits<Value>::denorm_min();
        case 3:
            return data.ConsumeFloatingPointInRange<Value>(Value{0}, Value{2});
        case 4:
            return std::ldexp(Value{1}, data.ConsumeIntegralInRange(-1074, 1023));
        case 5:
            return std::numeric_limits<Value>::max();
        default:
            return data.ConsumeFloatingPoint<Value>();
    }
}

template <class Wrong>
Wrong any_flag(FuzzedDataProvider& data) {
    if constexpr (std::is_same_v<Wrong, std::uint8_t>) {
        return data.ConsumeIntegralInRange<std::uint8_t>(0, data.ConsumeIntegralInRange(0, 50) == 0 ? 2 : 1);
    } else {
        switch (data.ConsumeIntegralInRange(0, 40)) {
            case 0:
                return data.ConsumeFloatingPoint<Wrong>();
            case 1:
                return std::numeric_limits<Wrong>::denorm_min();
            default:
                return data.ConsumeBool() ? static_cast<Wrong>(data.ConsumeBool()) : data.ConsumeProbability<Wrong>();
        }
    }
}

template <class Weight, class Wrong>
void run(FuzzedDataProvider& data, const GrowthKernels<Weight, Wrong>& fast) {
    const auto size = data.ConsumeIntegralInRange<std::size_t>(0, data.ConsumeBool() ? 12 : 300);
    std::vector<Weight> weights(size);
    std::vector<Wrong> wrong(size);
    for (std::size_t i = 0; i < size; ++i) {
        weights[i] = any_weight<Weight>(data);
        wrong[i] = any_flag<Wrong>(data);
    }
    UpdateOptions options;
    options.alpha =
        data.ConsumeBool() ? data.ConsumeFloatingPointInRange(-400.0, 400.0) : data.ConsumeFloatingPoint<double>();
    if (data.ConsumeBool()) {
        options.cap =
            data.ConsumeBool() ? data.ConsumeFloatingPointInRange(1.0, 4.0) : data.ConsumeFloatingPoint<double>();
    }
    if (data.ConsumeIntegralInRange(0, 3) == 0) {
        options.total = any_weight<double>(data);
    }
    std::vector<std::int64_t> offsets(data.ConsumeIntegralInRange<std::size_t>(0, 20));
    for (std::int64_t& offset : offsets) {
        offset = data.ConsumeIntegralInRange<std::int64_t>(-1, static_cast<std::int64_t>(size) + 1);
    }
    if (data.ConsumeBool()) {
        std::ranges::sort(offsets);
    }
    std::vector<double> sums(offsets.empty() ? 0 : offsets.size() - 1);
    const int threads = data.ConsumeIntegralInRange(1, 2);
    try {
        static_cast<void>(weighted_error<Weight, Wrong>(weights, wrong.data(), fast, threads));
        if (!offsets.empty()) {
            check_offsets(offsets, size);
            segment_sum<Weight>(weights.data(), offsets, sums, threads);
            options.offsets = offsets;
            options.segment_sums = sums;
        }
    } catch (const std::invalid_argument&) {
        options.offsets = {};
    }
    const std::vector<Weight> before = weights;
    options.threads = threads;
    UpdateResult result;
    try {
        result = BoostUpdate<Weight, Wrong>(weights, wrong.data(), options, fast).run();
    } catch (const std::invalid_argument&) {
        require(options.total.has_value() || size == 0 ||
                std::memcmp(before.data(), weights.data(), size * sizeof(Weight)) == 0);
        return;
    }
    double sum = 0.0;
    double total = 0.0;  // of segments
    for (std::size_t i = 0; i < size; ++i) {
        require(weights[i] >= 0 && std::isfinite(weights[i]));
        require(before[i] > 0 || weights[i] == 0);
        require(!options.cap || static_cast<double>(weights[i]) <= *options.cap / static_cast<double>(size));
        sum += static_cast<double>(weights[i]);
    }
    for (std::size_t s = 0; options.offsets.size() > s + 1; ++s) {
        total += sums[s];
    }
    const double allowed = sizeof(Weight) == sizeof(float) ? 1e-6 : 2e-12;
    require(std::abs(result.sum - sum) <= allowed * sum);
    require(total <= sum * (1.0 + allowed));
    require(options.total.has_value() || std::abs(sum - 1.0) <= allowed);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
    FuzzedDataProvider data(bytes, count);
    const Kernels& fast = data.ConsumeBool() ? *available_kernels().front() : *available_kernels().back();
    switch (data.ConsumeIntegralInRange(0, 5)) {
        case 0:
            run<double, double>(data, fast.grow_double_double);
            break;
        case 1:
            run<double, float>(data, fast.grow_double_float);
            break;
        case 2:
            run<double, std::uint8_t>(data, fast.grow_double_byte);
            break;
        case 3:
            run<float, double>(data, fast.grow_float_double);
            break;
        case 4:
            run<float, float>(data, fast.grow_float_float);
            break;
        default:
            run<float, std::uint8_t>(data, fast.grow_float_byte);
    }
    return 0;
}
