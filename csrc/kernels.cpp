#include "kernels.hpp"

#include <cstdlib>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace ensemw2s {
namespace {

namespace baseline {
#define EW_TARGET
#define EW_LANES 2
#ifdef __x86_64__
#define EW_MUL32(a, b) reinterpret_cast<U64>(_mm_mul_epu32(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)))
#else
#define EW_MUL32(a, b) (((a) & 0xFFFFFFFFU) * ((b) & 0xFFFFFFFFU))
#endif
#include "kernels_body.inc"
}  // namespace baseline

constexpr Kernels kBaseline = baseline::kernels_named("baseline");

#ifdef __x86_64__
namespace avx2 {
#define EW_TARGET [[gnu::target("avx2")]]
#define EW_LANES 4
#define EW_MUL32(a, b) \
    reinterpret_cast<U64>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)))
#include "kernels_body.inc"
}  // namespace avx2

namespace avx512 {
#define EW_TARGET [[gnu::target("avx512f,avx512dq,avx512vl,avx512bw")]]
#define EW_LANES 8
// zero-masked, because GCC 12 warns about the unmasked one's own undefined operand
#define EW_MUL32(a, b) \
    reinterpret_cast<U64>(_mm512_maskz_mul_epu32(0xFF, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)))
#include "kernels_body.inc"
}  // namespace avx512

constexpr Kernels kAvx2 = avx2::kernels_named("avx2");
constexpr Kernels kAvx512 = avx512::kernels_named("avx512");
#endif

const Kernels& choose() {
    const std::vector<const Kernels*> available = available_kernels();
    const char* wanted = std::getenv("ENSEMW2S_SIMD");  // NOLINT(concurrency-mt-unsafe): once, while loading
    if (wanted == nullptr || *wanted == '\0') {
        return *available.back();
    }
    std::string names;
    for (const Kernels* candidate : available) {
        if (candidate->name == wanted) {
            return *candidate;
        }
        names += (names.empty() ? "" : ", ") + std::string(candidate->name);
    }
    throw std::invalid_argument("ENSEMW2S_SIMD is '" + std::string(wanted) + "'; this machine has " + names);
}

}  // namespace

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> out{&kBaseline};
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) {
        out.push_back(&kAvx2);
    }
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw")) {
        out.push_back(&kAvx512);
    }
#endif
    return out;
}

const Kernels& kernels() {
    static const Kernels& chosen = choose();
    return chosen;
}

}  // namespace ensemw2s
