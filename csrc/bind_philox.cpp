#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>

#include "arrays.hpp"
#include "bindings.hpp"
#include "philox.hpp"

namespace ensemw2s::python {
namespace {

using Words = py::array_t<std::uint32_t, int{kInOnePiece}>;

Words philox(const py::object& counter_words, const py::object& key_words) {
    const py::array counter = array_of("counter", counter_words);
    const py::array key = array_of("key", key_words);
    if (!holds<std::uint32_t>(counter) || counter.ndim() != 2 || counter.shape(1) != 4) {
        wrong_array("counter", counter, "uint32 of shape [n, 4]");
    }
    const py::ssize_t size = counter.shape(0);
    const bool one_key = key.ndim() == 1 && key.shape(0) == 2;
    const bool one_each = key.ndim() == 2 && key.shape(0) == size && key.shape(1) == 2;
    if (!holds<std::uint32_t>(key) || !(one_key || one_each)) {
        wrong_array("key", key, "uint32 of shape [n, 2] or [2]");
    }
    const Words counters = counter;  // in one piece from here on
    const Words keys = key;
    Words out({size, py::ssize_t{4}});
    const std::uint32_t* from = counters.data();
    const std::uint32_t* with = keys.data();
    std::uint32_t* to = out.mutable_data();
    {
        const py::gil_scoped_release release;
        for (py::ssize_t i = 0; i < size; ++i) {
            const std::uint32_t* k = one_key ? with : with + 2 * i;
            const PhiloxCounter block =
                philox4x32({from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]}, {k[0], k[1]});
            std::ranges::copy(block, to + 4 * i);
        }
    }
    return out;
}

}  // namespace

void bind_philox(py::module_& module) {
    module.def("philox4x32", &philox, py::arg("counter"), py::arg("key"),
               "Ten rounds of Philox4x32: counter uint32 [n, 4], key uint32 [n, 2] or [2] -> uint32 [n, 4].");
}

}  // namespace ensemw2s::python
