#include "combine_kernels.hpp"

#include <array>
#include <numbers>

#include "kernels.hpp"

#ifdef __x86_64__
#include <immintrin.h>
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
#define EW_WIDEN_HALF(bits) widen_float16(bits)
#include "combine_body.inc"
}  // namespace baseline

constexpr CombineKernels kBaseline = baseline::combine_kernels_named("baseline");

#ifdef __x86_64__
namespace avx2 {
#define EW_TARGET [[gnu::target("avx2")]]
#define EW_LANES 8
#define EW_MAX(a, b) reinterpret_cast<F32>(_mm256_max_ps((a), (b)))
#define EW_WIDEN_HALF(bits) widen_float16(bits)
#include "combine_body.inc"
}  // namespace avx2

namespace avx512 {
#define EW_TARGET [[gnu::target("avx512f,avx512dq,avx512vl,avx512bw")]]
#define EW_LANES 16
// zero-masked, because GCC 12 warns about the unmasked ones' own undefined operand
#define EW_MAX(a, b) reinterpret_cast<F32>(_mm512_maskz_max_ps(0xFFFF, (a), (b)))
#define EW_WIDEN_HALF(bits) reinterpret_cast<F32>(_mm512_maskz_cvtph_ps(0xFFFF, reinterpret_cast<__m256i>(bits)))
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
