// Checked arguments: arrays as views, integers and numbers. This header and the bind_*.cpp files are all that knows
// Python. Functions take py::object and say themselves what they expected: pybind11 turns lists into arrays that nobody
// keeps, None into false, and writes all arguments into its own messages.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

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

// A str as UTF-8; nothing where it is no str, or none that can be written (a lone surrogate).
[[nodiscard]] inline std::optional<std::string> text_of(const py::handle& value) {
    const char* bytes = PyUnicode_Check(value.ptr()) ? PyUnicode_AsUTF8(value.ptr()) : nullptr;
    if (bytes == nullptr) {
        PyErr_Clear();
        return std::nullopt;
    }
    return bytes;
}

// A value as Python shows it, cut short.
[[nodiscard]] inline std::string quoted(const py::handle& value) {
    constexpr std::size_t kLongest = 60;
    const auto shown = py::reinterpret_steal<py::object>(PyObject_Repr(value.ptr()));
    if (!shown) {
        PyErr_Clear();
        return "a value that cannot be shown";
    }
    const std::string all = text_of(shown).value_or("a value that cannot be shown");
    std::size_t end = std::min(all.size(), kLongest);
    while (end < all.size() && (static_cast<unsigned char>(all[end]) & 0xC0U) == 0x80U) {
        --end;  // not inside a character
    }
    return all.substr(0, end) + (end < all.size() ? "…" : "");
}

[[noreturn]] inline void wrong_type(const std::string& name, const py::handle& value, const std::string& expected) {
    throw py::type_error(name + " is " + quoted(value) + ", a " + Py_TYPE(value.ptr())->tp_name + "; expected " +
                         expected);
}

[[noreturn]] inline void wrong_number(const std::string& name, const py::handle& value, const std::string& expected) {
    throw std::invalid_argument(name + " is " + quoted(value) + "; expected " + expected);
}

[[nodiscard]] inline py::array array_of(const std::string& name, const py::handle& value) {
    if (!py::isinstance<py::array>(value)) {
        wrong_type(name, value, "a numpy array");
    }
    return py::reinterpret_borrow<py::array>(value);
}

// The values of a list, tuple or array.
[[nodiscard]] inline std::vector<py::object> items_of(const std::string& name, const py::handle& value) {
    if (PySequence_Check(value.ptr()) == 0 || PyUnicode_Check(value.ptr()) || PyBytes_Check(value.ptr())) {
        wrong_type(name, value, "a list");
    }
    std::vector<py::object> out;
    for (const py::handle item : value) {
        out.push_back(py::reinterpret_borrow<py::object>(item));
    }
    return out;
}

inline constexpr unsigned kInOnePiece =
    unsigned{py::array::c_style} | unsigned{py::detail::npy_api::NPY_ARRAY_ALIGNED_};

[[nodiscard]] inline bool in_one_piece(const py::array& array) {
    return (static_cast<unsigned>(array.flags()) & kInOnePiece) == kInOnePiece;
}

// Throws std::invalid_argument unless the values lie one after the other in one dimension.
inline void require_vector(const std::string& name, const py::array& array) {
    if (array.ndim() != 1) {
        wrong_array(name, array, "one dimension");
    }
    if (!in_one_piece(array)) {
        wrong_array(name, array, "a C-contiguous, aligned array (numpy.ascontiguousarray makes one)");
    }
}

inline void require_writeable(const std::string& name, const py::array& array) {
    if (!array.writeable()) {
        wrong_array(name, array, "a writeable array (it is read-only)");
    }
}

// The memory between an array's first and last byte.
struct Extent {
    std::uintptr_t first = 0;
    std::uintptr_t last = 0;  // one behind

    explicit Extent(const py::array& array) {
        if (array.size() == 0) {
            return;
        }
        first = last = reinterpret_cast<std::uintptr_t>(array.data());
        for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
            const py::ssize_t reach = (array.shape(axis) - 1) * array.strides(axis);
            (reach < 0 ? first : last) += static_cast<std::uintptr_t>(reach);
        }
        last += static_cast<std::uintptr_t>(array.itemsize());
    }
};

// What is written may not lie in memory that is read meanwhile, or written under another name.
inline void require_apart(const std::string& name, const py::array& written, const std::string& other_name,
                          const py::array& other) {
    const Extent a(written);
    const Extent b(other);
    if (a.first < b.last && b.first < a.last) {
        wrong_array(name, written, "memory of their own, but they share some with " + other_name);
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

// A range of integers, and how messages call it.
struct Range {
    std::uint64_t most;
    const char* text;
};

inline constexpr Range kAnyWord{std::numeric_limits<std::uint64_t>::max(), "an integer in [0, 2**64)"};
inline constexpr Range kAnySize{std::uint64_t{std::numeric_limits<std::int64_t>::max()}, "an integer in [0, 2**63)"};
inline constexpr Range kThreads{std::uint64_t{std::numeric_limits<int>::max()},
                                "an integer of 0 (the default number) or more, below 2**31"};

// Python's integers and numpy's; neither booleans nor what would have to be rounded or parsed.
[[nodiscard]] inline std::uint64_t whole_number(const std::string& name, const py::handle& value, const Range& range) {
    const auto whole = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    if (!whole || PyBool_Check(value.ptr())) {
        PyErr_Clear();
        wrong_type(name, value, range.text);
    }
    const auto out = PyLong_AsUnsignedLongLong(whole.ptr());
    if (PyErr_Occurred() != nullptr) {
        PyErr_Clear();
        wrong_number(name, value, range.text);
    }
    if (out > range.most) {
        wrong_number(name, value, range.text);
    }
    return out;
}

[[nodiscard]] inline int thread_number(const py::handle& threads) {
    return static_cast<int>(whole_number("threads", threads, kThreads));
}

// Python's numbers and numpy's, as float64.
[[nodiscard]] inline double number(const std::string& name, const py::handle& value) {
    if (PyBool_Check(value.ptr())) {
        wrong_type(name, value, "a number");
    }
    const double out = PyFloat_AsDouble(value.ptr());
    if (PyErr_Occurred() != nullptr) {
        const bool too_large = PyErr_ExceptionMatches(PyExc_OverflowError) != 0;
        PyErr_Clear();
        if (too_large) {
            wrong_number(name, value, "a number in the range of float64");
        }
        wrong_type(name, value, "a number");
    }
    return out;
}

[[nodiscard]] inline std::optional<double> number_or_none(const std::string& name, const py::handle& value) {
    return value.is_none() ? std::nullopt : std::optional(number(name, value));
}

[[nodiscard]] inline bool truth(const std::string& name, const py::handle& value) {
    const std::string type = Py_TYPE(value.ptr())->tp_name;
    if (!PyBool_Check(value.ptr()) && type != "numpy.bool" && type != "numpy.bool_") {
        wrong_type(name, value, "True or False");
    }
    return PyObject_IsTrue(value.ptr()) == 1;
}

}  // namespace ensemw2s::python
