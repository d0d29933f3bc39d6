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

// Sums over some weights. `invalid` says that one of them is negative, NaN or infinite; the rest is then meaningless.
struct WeightSums {
    CompensatedSum sum;
    double largest = 0.0;
    std::size_t positive = 0;
    bool invalid = false;
};

// How a weight grows: v = w * exp(alpha * wrong - shift). The shift keeps the exponent from exceeding 0.
struct Growth {
    double alpha = 0.0;
    double shift = 0.0;
};

// Sums over grown weights v.
struct GrownSums {
    CompensatedSum sum;
    double squares = 0.0;
    double largest = 0.0;
    bool invalid_weight = false;
    bool invalid_wrong = false;  // one is outside [0, 1] (for bytes: neither 0 nor 1)
};

// Over the grown weights with v * factor > limit: how many; over the others: their sum.
struct CappedSums {
    CompensatedSum below;
    std::size_t above = 0;
};

// Statistics of what was stored, min(v * factor, limit).
struct StoredSums {
    double squares = 0.0;
    double largest = 0.0;
};

template <class Weight>
struct WeightKernels {
    WeightSums (*sums)(const Weight* weights, std::size_t size);
    // keys[i] = exponential number `first + i` of the stream / weights[i]; NaN where a weight is 0. `first` is a
    // multiple of kGroup, and keys has room for `size` rounded up to whole groups.
    void (*keys)(const RandomStream& stream, std::size_t first, const Weight* weights, std::size_t size, double* keys);
};

template <class Weight, class Wrong>
struct GrowthKernels {
    GrownSums (*sums)(const Weight* weights, const Wrong* wrong, std::size_t size, Growth growth);
    CappedSums (*capped)(const Weight* weights, const Wrong* wrong, std::size_t size, Growth growth, double factor,
                         double limit);
    StoredSums (*store)(Weight* weights, const Wrong* wrong, std::size_t size, Growth growth, double factor,
                        double limit);
};

struct Kernels {
    std::string_view name;
    // `first` is a multiple of kGroup, and out has room for `size` rounded up to whole groups.
    void (*random_bits)(const RandomStream& stream, std::size_t first, std::size_t size, std::uint64_t* out);
    void (*exponentials)(const RandomStream& stream, std::size_t first, std::size_t size, double* out);
    CompensatedSum (*sum_double)(const double* values, std::size_t size);
    CompensatedSum (*sum_float)(const float* values, std::size_t size);
    CompensatedSum (*sum_byte)(const std::uint8_t* values, std::size_t size);
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

}  // namespace ensemw2s
