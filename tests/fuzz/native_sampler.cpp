// libFuzzer: draws from weights of any bytes. What can be drawn is drawn, what cannot never is.
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <span>
#include <stdexcept>
#include <vector>

#include "sampler.hpp"

namespace {

using namespace ensemw2s;

void require(bool holds) {
    if (!holds) {
        std::abort();
    }
}

template <class Weight>
void run(FuzzedDataProvider& data) {
    const auto size = data.ConsumeIntegralInRange<std::size_t>(0, data.ConsumeBool() ? 8 : 5000);
    std::vector<Weight> weights(size);
    const Weight usual = data.ConsumeFloatingPointInRange<Weight>(0, 1);
    for (Weight& weight : weights) {
        switch (data.ConsumeIntegralInRange(0, 7)) {
            case 0:
                weight = data.ConsumeFloatingPoint<Weight>();
                break;
            case 1:
                weight = std::numeric_limits<Weight>::denorm_min();
                break;
            case 2:
                weight = std::ldexp(Weight{1}, data.ConsumeIntegralInRange(-1074, 1020));
                break;
            case 3:
                weight = 0;
                break;
            default:
                weight = usual;
        }
    }
    const auto seed = data.ConsumeIntegral<std::uint64_t>();
    const auto stream = data.ConsumeIntegral<std::uint64_t>();
    const auto start = data.ConsumeIntegralInRange<std::uint64_t>(0, kMostNumbers - 10000);
    const int threads = data.ConsumeIntegralInRange(1, 2);
    std::vector<std::int64_t> draws(data.ConsumeIntegralInRange<std::size_t>(0, 3000));
    try {
        const WeightedSampler<Weight> sampler(weights, threads);
        const auto possible = [&](std::int64_t i) {
            require(i >= 0 && static_cast<std::size_t>(i) < size && weights[static_cast<std::size_t>(i)] > 0);
        };
        require(sampler.positive() ==
                static_cast<std::size_t>(std::ranges::count_if(weights, [](Weight w) { return w > 0; })));
        sampler.draw(seed, stream, start, draws);
        std::ranges::for_each(draws, possible);
        sampler.draw_sorted(seed, stream, draws);
        std::ranges::for_each(draws, possible);
        require(std::ranges::is_sorted(draws));
        std::vector<std::int64_t> all(sampler.positive());
        sampler.draw_without_replacement(seed, stream, all);
        std::vector<std::int64_t> some(std::min(all.size(), draws.size()));
        sampler.draw_without_replacement(seed, stream, some);
        require(std::equal(some.begin(), some.end(), all.begin()));
        sort_distinct(all, size);
        std::ranges::for_each(all, possible);
        require(std::ranges::adjacent_find(all, std::greater_equal<>()) == all.end());
    } catch (const std::invalid_argument&) {
        return;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t count) {
    FuzzedDataProvider data(bytes, count);
    data.ConsumeBool() ? run<double>(data) : run<float>(data);
    return 0;
}
