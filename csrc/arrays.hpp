// Checked views of numpy arrays. This header and the bind_*.cpp files are all that knows Python.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>

namespace ensemw2s::python {

namespace py = pybind11;

template <class Value>
[[nodiscard]] bool holds(const py::array& array) {
    return py::isinstance<py::array_t<Value>>(array);
}

[[nodiscard]] inline std::string described(const py::array& array) {
    std::string shape;
    for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
        shape += (axis > 0 ? ", " : "") + std::to_string(array.shape(axis));
    }
    return py::str(array.dtype()).cast<std::string>() + " of shape [" + shape + "]";
}

[[noreturn]] inline void wrong_array(const std::string& name, const py::array& array, const std::string& expected) {
    throw std::invalid_argument(name + " are " + described(array) + "; expected " + expected);
}

// Throws std::invalid_argument unless the values lie one after the other in one dimension.
inline void require_vector(const std::string& name, const py::array& array) {
    constexpr unsigned kWanted = unsigned{py::array::c_style} | unsigned{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
    if (array.ndim() != 1) {
        wrong_array(name, array, "one dimension");
    }
    if ((static_cast<unsigned>(array.flags()) & kWanted) != kWanted) {
        wrong_array(name, array, "a C-contiguous, aligned array (numpy.ascontiguousarray makes one)");
    }
}

inline void require_writeable(const std::string& name, const py::array& array) {
    if (!array.writeable()) {
        wrong_array(name, array, "a writeable array (it is read-only)");
    }
}

[[nodiscard]] inline std::size_t length(const py::array& array) {
    return static_cast<std::size_t>(array.size());
}

template <class Value>
[[nodiscard]] std::span<const Value> view(const py::array& array) {
    return {static_cast<const Value*>(array.data()), length(array)};
}

template <class Value>
[[nodiscard]] std::span<Value> mutable_view(py::array array) {  // a second handle on the same array
    return {static_cast<Value*>(array.mutable_data()), length(array)};
}

// An integer in [0, 2**64); anything with __index__ will do.
[[nodiscard]] inline std::uint64_t unsigned_64(const std::string& name, const py::object& value) {
    const auto whole = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!whole) {
        throw py::error_already_set();
    }
    const auto out = PyLong_AsUnsignedLongLong(whole.ptr());
    if (PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        throw std::invalid_argument(name + " is " + py::str(value).cast<std::string>() +
                                    "; expected an integer in [0, 2**64)");
    }
    return out;
}

[[nodiscard]] inline int thread_number(int threads) {
    if (threads < 0) {
        throw std::invalid_argument("threads is " + std::to_string(threads) + "; expected 0 (the default) or more");
    }
    return threads;
}

}  // namespace ensemw2s::python
