#include "combine_kernels.hpp"

#include <array>
#include <numbers>

#include "kernels.hpp"

#ifdef __x86_64__
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace ensemw2s {
namespace {

namespace baseline {
#define EW_TARGET
#define EW_LANES 4
#ifdef __x86_64__
#define EW_MAX(a, b) reinterpret_cast<F32>(_mm_max_ps((a), (b)))
#else
#define EW_MAX(a, b) ((a) > (b) ? (a) : (b))
#endif
#ifdef __aarch64__
#define EW_FUSED 1
#define EW_FMA(a, b, c)                                                                                 \
    reinterpret_cast<F32>(vfmaq_f32(reinterpret_cast<float32x4_t>(c), reinterpret_cast<float32x4_t>(a), \
                                    reinterpret_cast<float32x4_t>(b)))
#define EW_FMA_WIDE(a, b, c)                                                                            \
    reinterpret_cast<F64>(vfmaq_f64(reinterpret_cast<float64x2_t>(c), reinterpret_cast<float64x2_t>(a), \
                                    reinterpret_cast<float64x2_t>(b)))
#else
#define EW_FUSED 0
#define EW_FMA(a, b, c) ((a) * (b) + (c))
#define EW_FMA_WIDE(a, b, c) ((a) * (b) + (c))
#endif
#define EW_WIDEN_HALF(bits) widen_float16(bits)
#define EW_WIDEN_BITS(bits) __builtin_convertvector(bits, U32)
#define EW_WIDEN(narrow) __builtin_convertvector(narrow, F64)
#define EW_KEEP(bits) static_cast<void>(bits)
#include "combine_body.inc"
}  // namespace baseline

constexpr CombineKernels kBaseline = baseline::combine_kernels_named("baseline");

#ifdef __x86_64__
namespace avx2 {
#define EW_TARGET [[gnu::target("avx2,fma,f16c")]]
#define EW_LANES 8
#define EW_FUSED 1
#define EW_FMA(a, b, c) reinterpret_cast<F32>(_mm256_fmadd_ps((a), (b), (c)))
#define EW_FMA_WIDE(a, b, c) reinterpret_cast<F64>(_mm256_fmadd_pd((a), (b), (c)))
#define EW_MAX(a, b) reinterpret_cast<F32>(_mm256_max_ps((a), (b)))
#define EW_WIDEN_HALF(bits) reinterpret_cast<F32>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(bits)))
#define EW_WIDEN_BITS(bits) reinterpret_cast<U32>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(bits)))
#define EW_WIDEN(narrow) reinterpret_cast<F64>(_mm256_cvtps_pd(narrow))
#define EW_KEEP(bits) asm("" : "+x"(bits))
#include "combine_body.inc"
}  // namespace avx2

namespace avx512 {
#define EW_TARGET [[gnu::target("avx512f,avx512dq,avx512vl,avx512bw")]]
#define EW_LANES 16
#define EW_FUSED 1
#define EW_FMA(a, b, c) reinterpret_cast<F32>(_mm512_fmadd_ps((a), (b), (c)))
#define EW_FMA_WIDE(a, b, c) reinterpret_cast<F64>(_mm512_fmadd_pd((a), (b), (c)))
// zero-masked, because GCC 12 warns about the unmasked ones' own undefined operand
#define EW_MAX(a, b) reinterpret_cast<F32>(_mm512_maskz_max_ps(0xFFFF, (a), (b)))
#define EW_WIDEN_HALF(bits) reinterpret_cast<F32>(_mm512_maskz_cvtph_ps(0xFFFF, reinterpret_cast<__m256i>(bits)))
#define EW_WIDEN_BITS(bits) reinterpret_cast<U32>(_mm512_maskz_cvtepu16_epi32(0xFFFF, reinterpret_cast<__m256i>(bits)))
#define EW_WIDEN(narrow) reinterpret_cast<F64>(_mm512_maskz_cvtps_pd(0xFF, (narrow)))
#define EW_KEEP(bits) asm("" : "+x"(bits))
#include "combine_body.inc"
}  // namespace avx512

constexpr CombineKernels kAvx2 = avx2::combine_kernels_named("avx2");
constexpr CombineKernels kAvx512 = avx512::combine_kernels_named("avx512");
constexpr std::array kAll = {&kBaseline, &kAvx2, &kAvx512};
#else
constexpr std::array kAll = {&kBaseline};
#endif

}  // namespace

const CombineKernels& combine_kernels() {
    for (const CombineKernels* candidate : kAll) {
        if (candidate->name == kernels().name) {
            return *candidate;
        }
    }
    return kBaseline;
}

}  // namespace ensemw2s
