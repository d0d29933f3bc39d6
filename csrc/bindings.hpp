// What each bind_*.cpp file adds to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace ensemw2s::python {

void bind_build_info(pybind11::module_& module);
void bind_combine(pybind11::module_& module);
void bind_philox(pybind11::module_& module);
void bind_sampler(pybind11::module_& module);
void bind_weights(pybind11::module_& module);

}  // namespace ensemw2s::python
