// The extension module ensemw2s._native: its table of contents.
#include "bindings.hpp"
#include "kernels.hpp"
#include "threads.hpp"

PYBIND11_MODULE(_native, module) {
    module.doc() = "Weighted sampling, token-weight arithmetic and combination of experts of EnsemW2S.";
    static_cast<void>(ensemw2s::kernels());  // a bad ENSEMW2S_SIMD is an error now, not later
    ensemw2s::watch_forks();

    ensemw2s::python::bind_build_info(module);  // build_info
    ensemw2s::python::bind_combine(module);     // combine_into, sample_tokens
    ensemw2s::python::bind_philox(module);      // philox4x32
    ensemw2s::python::bind_sampler(module);     // WeightedSampler
    ensemw2s::python::bind_weights(module);     // boost_update, segment_sum
}
