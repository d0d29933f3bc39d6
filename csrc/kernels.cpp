#include "kernels.hpp"

#include <cstdlib>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef __x86_64__
#include <cpuid.h>
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
#define EW_WIDEN(narrow) __builtin_convertvector(narrow, F64)
#define EW_NARROW(wide) __builtin_convertvector(wide, F32)
#define EW_WIDEN_BYTES(from) (I64{(from)[0], (from)[1]})
#define EW_PLUS(a, b) ((a) + (b))
#define EW_FUSED(a, b, c) ((a) * (b) + (c))
#define EW_MINUS(a, b) ((a) - (b))
#ifdef __x86_64__
#define EW_MAX(a, b) reinterpret_cast<F64>(_mm_max_pd((a), (b)))
#define EW_MIN(a, b) reinterpret_cast<F64>(_mm_min_pd((a), (b)))
#define EW_MASK_LE(a, b) static_cast<unsigned>(_mm_movemask_pd(_mm_cmple_pd((a), (b))))
#else
#define EW_MAX(a, b) ((a) > (b) ? (a) : (b))
#define EW_MIN(a, b) ((a) < (b) ? (a) : (b))
#define EW_MASK_LE(a, b) (static_cast<unsigned>((a)[0] <= (b)[0]) | static_cast<unsigned>((a)[1] <= (b)[1]) << 1U)
#endif
#include "kernels_body.inc"
}  // namespace baseline

constexpr Kernels kBaseline = baseline::kernels_named("baseline");

#ifdef __x86_64__
namespace avx2 {
#define EW_TARGET [[gnu::target("avx2,fma,popcnt")]]
#define EW_LANES 4
#define EW_WIDEN(narrow) reinterpret_cast<F64>(_mm256_cvtps_pd(narrow))
#define EW_NARROW(wide) reinterpret_cast<F32>(_mm256_cvtpd_ps(wide))
#define EW_WIDEN_BYTES(from) reinterpret_cast<I64>(_mm256_cvtepu8_epi64(_mm_loadu_si32(from)))
#define EW_FUSED(a, b, c) reinterpret_cast<F64>(_mm256_fmadd_pd((a), (b), (c)))
#define EW_PLUS(a, b) EW_FUSED(spread(1.0), a, b)
#define EW_MINUS(a, b) EW_FUSED(spread(1.0), a, -(b))
#define EW_MAX(a, b) reinterpret_cast<F64>(_mm256_max_pd((a), (b)))
#define EW_MIN(a, b) reinterpret_cast<F64>(_mm256_min_pd((a), (b)))
#define EW_MASK_LE(a, b) static_cast<unsigned>(_mm256_movemask_pd(_mm256_cmp_pd((a), (b), _CMP_LE_OQ)))
#define EW_MUL32(a, b) \
    reinterpret_cast<U64>(_mm256_mul_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)))
#include "kernels_body.inc"
}  // namespace avx2

namespace avx512 {
#define EW_TARGET [[gnu::target("avx512f,avx512dq,avx512vl,avx512bw,popcnt")]]
#define EW_LANES 8
#define EW_FUSED(a, b, c) reinterpret_cast<F64>(_mm512_fmadd_pd((a), (b), (c)))
#define EW_PLUS(a, b) EW_FUSED(spread(1.0), a, b)
#define EW_MINUS(a, b) EW_FUSED(spread(1.0), a, -(b))
// zero-masked, because GCC 12 warns about the unmasked ones' own undefined operand
#define EW_WIDEN(narrow) reinterpret_cast<F64>(_mm512_maskz_cvtps_pd(0xFF, (narrow)))
#define EW_NARROW(wide) reinterpret_cast<F32>(_mm512_maskz_cvtpd_ps(0xFF, (wide)))
#define EW_WIDEN_BYTES(from) reinterpret_cast<I64>(_mm512_maskz_cvtepu8_epi64(0xFF, _mm_loadu_si64(from)))
#define EW_MAX(a, b) reinterpret_cast<F64>(_mm512_maskz_max_pd(0xFF, (a), (b)))
#define EW_MIN(a, b) reinterpret_cast<F64>(_mm512_maskz_min_pd(0xFF, (a), (b)))
#define EW_MASK_LE(a, b)                         \
    unsigned {                                   \
        _mm512_cmp_pd_mask((a), (b), _CMP_LE_OQ) \
    }
#define EW_COMPRESS(mask, indices) \
    reinterpret_cast<Indices>(     \
        _mm256_maskz_compress_epi32(static_cast<__mmask8>(mask), reinterpret_cast<__m256i>(indices)))
#define EW_MUL32(a, b) \
    reinterpret_cast<U64>(_mm512_maskz_mul_epu32(0xFF, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)))
#include "kernels_body.inc"
}  // namespace avx512

constexpr Kernels kAvx2 = avx2::kernels_named("avx2");
constexpr Kernels kAvx512 = avx512::kernels_named("avx512");
#endif

#ifdef __x86_64__
// __builtin_cpu_supports knows this feature's name in newer compilers only.
bool has_f16c() {
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & static_cast<unsigned>(bit_F16C)) != 0;
}
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
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()) {
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
