// The inner loops, compiled for several instruction sets; the best one that this machine has is chosen at run time.
// All of them give the same bits: sums run over eight lanes whatever the width of the registers, exp and log are our
// own, and no multiplication is fused with an addition (-ffp-contract=off).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "compensated.hpp"
#include "philox.hpp"

namespace ensemw2s {

// Sums that are searched at a time.
inline constexpr std::size_t kSpan = 16;

// Weights below this have keys that may leave the range of double, as have those above kLargeWeight.
inline constexpr double kSmallWeight = 0x1p-1000;
inline constexpr double kLargeWeight = 0x1p960;

// Sums over some weights. `invalid` says that one of them is negative, NaN or infinite; the rest is then meaningless.
struct WeightSums {
    CompensatedSum sum;
    double largest = 0.0;
    std::size_t positive = 0;
    std::size_t ordinary = 0;  // of at least kSmallWeight
    bool invalid = false;
};

// Lanes over which sums are formed.
inline constexpr std::size_t kSumLanes = 8;

// How weights grow: v = w * exp(alpha * wrong - shift) * scale. The shift keeps the exponent from exceeding 0.
struct Growth {
    double alpha = 0.0;
    double shift = 0.0;
    double scale = 1.0;
    double if_right = 1.0;  // v / w where `wrong` is 0
    double if_wrong = 1.0;  // v / w where it is 1
};

// What is noted about grown weights besides their sum, lane by lane. `negative`: a weight has a minus sign, maybe that
// of -0.0; NaN and infinities show in the sum. `invalid_wrong`: one is outside [0, 1] (for bytes: neither 0 nor 1).
struct GrowthTally {
    double squares[kSumLanes] = {};
    double largest[kSumLanes] = {};
    bool negative = false;
    bool invalid_wrong = false;
};

// Sums over some weights, and over weights times `wrong`, good to eight roundings. `binary`: `wrong` is 0 or 1
// everywhere.
struct ErrorSums {
    CompensatedSum total;
    CompensatedSum wrong;
    GrowthTally tally;  // of the weights; the largest is not noted
    bool binary = true;
};

// Over the grown weights above the limit: how many; over the others: their sum.
struct CappedSums {
    CompensatedSum below;
    std::size_t above = 0;
};

template <class Weight>
struct WeightKernels {
    WeightSums (*sums)(const Weight* weights, std::size_t size);
    // keys[i] = exponential number `first + i` of the stream / weights[i]; NaN where a weight is 0. `first` is a
    // multiple of kGroup, and keys has room for `size` rounded up to whole groups. Any other function of a key will do
    // that never falls where keys rise.
    void (*keys)(const RandomStream& stream, std::size_t first, const Weight* weights, std::size_t size, double* keys);
};

template <class Weight, class Wrong>
struct GrowthKernels {
    ErrorSums (*errors)(const Weight* weights, const Wrong* wrong, std::size_t size);
    // The sum of v, good to eight roundings. Squares are not noted.
    CompensatedSum (*sum)(const Weight* weights, const Wrong* wrong, std::size_t size, const Growth& growth,
                          GrowthTally& tally);
    CappedSums (*capped)(const Weight* weights, const Wrong* wrong, std::size_t size, const Growth& growth,
                         double limit);
    // Replaces w by min(v, limit). The sum and what is noted are of what is stored.
    CompensatedSum (*store)(Weight* weights, const Wrong* wrong, std::size_t size, const Growth& growth, double limit,
                            GrowthTally& tally);
};

struct Kernels {
    std::string_view name;
    // `first` is a multiple of kGroup, and out has room for `size` rounded up to whole groups.
    void (*random_bits)(const RandomStream& stream, std::size_t first, std::size_t size, std::uint64_t* out);
    void (*exponentials)(const RandomStream& stream, std::size_t first, std::size_t size, double* out);
    // The indices of values <= limit, and how many there are. Up to kSumLanes places behind these may be overwritten.
    std::size_t (*select_le)(const double* values, std::size_t size, double limit, std::uint32_t* out);
    // span_of[k] = the first of the spans whose last sum exceeds wanted[k], from span `from` on, for rising `wanted`.
    // Returns for how many there is one. kSumLanes numbers that are no smaller lie behind `wanted`, and as many
    // places of span_of may be overwritten.
    std::size_t (*find_spans)(const double* lasts, std::size_t spans, std::size_t from, const double* wanted,
                              std::size_t count, std::uint32_t* span_of);
    // out[k] = base + index of the first of `sums`, which rise, above wanted[k]; it lies in span spans[k] of kSpan sums
    // or is the first one after it.
    void (*find_in_spans)(const double* sums, const std::uint32_t* spans, const double* wanted, std::size_t count,
                          std::size_t base, std::int64_t* out);
    CompensatedSum (*sum_double)(const double* values, std::size_t size);
    CompensatedSum (*sum_float)(const float* values, std::size_t size);
    CompensatedSum (*sum_byte)(const std::uint8_t* values, std::size_t size);
    double (*exp_nonpositive)(double x);  // exp(x) for x <= 0
    WeightKernels<double> weight_double;
    WeightKernels<float> weight_float;
    GrowthKernels<double, double> grow_double_double;
    GrowthKernels<double, float> grow_double_float;
    GrowthKernels<double, std::uint8_t> grow_double_byte;
    GrowthKernels<float, double> grow_float_double;
    GrowthKernels<float, float> grow_float_float;
    GrowthKernels<float, std::uint8_t> grow_float_byte;
};

// The kernels that this machine can run, from the plainest to the best.
[[nodiscard]] std::vector<const Kernels*> available_kernels();

// The kernels to use: the best ones, or those that the environment variable ENSEMW2S_SIMD names. Chosen once.
// Throws std::invalid_argument where these cannot run.
[[nodiscard]] const Kernels& kernels();

[[nodiscard]] inline CompensatedSum sum_of(const double* values, std::size_t size) {
    return kernels().sum_double(values, size);
}
[[nodiscard]] inline CompensatedSum sum_of(const float* values, std::size_t size) {
    return kernels().sum_float(values, size);
}
[[nodiscard]] inline CompensatedSum sum_of(const std::uint8_t* values, std::size_t size) {
    return kernels().sum_byte(values, size);
}

}  // namespace ensemw2s
