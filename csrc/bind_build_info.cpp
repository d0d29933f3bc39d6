#include <pybind11/pybind11.h>

#include <string>

#include "bindings.hpp"
#include "kernels.hpp"
#include "threads.hpp"

namespace ensemw2s::python {
namespace {

namespace py = pybind11;

constexpr const char* kCompiler =
#ifdef __clang__
    "Clang " __clang_version__;
#else
    "GCC " __VERSION__;
#endif

#ifdef _OPENMP
constexpr bool kOpenMp = true;
#else
constexpr bool kOpenMp = false;
#endif

py::dict build_info() {
    py::list available;
    for (const Kernels* kernels : available_kernels()) {
        available.append(std::string(kernels->name));
    }
    py::dict info;
    info["compiler"] = kCompiler;
    info["openmp"] = kOpenMp;
    info["threads"] = resolve_threads(0);
    info["simd"] = std::string(kernels().name);
    info["simd_available"] = available;
    info["sanitize"] = ENSEMW2S_SANITIZE;
    return info;
}

}  // namespace

void bind_build_info(py::module_& module) {
    module.def("build_info", &build_info,
               "How the extension was built and runs: compiler, openmp, threads (the default number), simd (the\n"
               "instruction set in use; ENSEMW2S_SIMD chooses another), simd_available, sanitize.");
}

}  // namespace ensemw2s::python
