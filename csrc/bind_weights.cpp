#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <span>

#include "arrays.hpp"
#include "bindings.hpp"
#include "boost_update.hpp"
#include "kernels.hpp"
#include "segment_sum.hpp"

namespace ensemw2s::python {
namespace {

struct UpdateOptions {
    double alpha;
    std::optional<double> cap;
    int threads;
};

template <class Weight, class Wrong>
UpdateResult update(const py::array& weights, const py::array& wrong, const GrowthKernels<Weight, Wrong>& fast,
                    const UpdateOptions& options) {
    const std::span<Weight> values = mutable_view<Weight>(weights);
    const auto* flags = static_cast<const Wrong*>(wrong.data());
    const py::gil_scoped_release release;
    return BoostUpdate<Weight, Wrong>(values, flags, options.alpha, options.cap, fast, options.threads).run();
}

template <class Weight>
UpdateResult update(const py::array& weights, const py::array& wrong, const GrowthKernels<Weight, double>& by_double,
                    const GrowthKernels<Weight, float>& by_float, const GrowthKernels<Weight, std::uint8_t>& by_byte,
                    const UpdateOptions& options) {
    if (holds<double>(wrong)) {
        return update<Weight, double>(weights, wrong, by_double, options);
    }
    if (holds<float>(wrong)) {
        return update<Weight, float>(weights, wrong, by_float, options);
    }
    if (holds<std::uint8_t>(wrong) || holds<bool>(wrong)) {
        return update<Weight, std::uint8_t>(weights, wrong, by_byte, options);
    }
    wrong_array("wrong", wrong, "float64, float32, uint8 or bool");
}

py::dict boost_update(const py::array& weights, const py::array& wrong, double alpha, std::optional<double> cap,
                      int threads) {
    require_vector("weights", weights);
    require_writeable("weights", weights);
    require_vector("wrong", wrong);
    if (length(wrong) != length(weights)) {
        wrong_array("wrong", wrong, "as many as there are weights, " + std::to_string(length(weights)));
    }
    const UpdateOptions options{alpha, cap, thread_number(threads)};
    const Kernels& fast = kernels();
    UpdateResult result;
    if (holds<double>(weights)) {
        result = update<double>(weights, wrong, fast.grow_double_double, fast.grow_double_float, fast.grow_double_byte,
                                options);
    } else if (holds<float>(weights)) {
        result =
            update<float>(weights, wrong, fast.grow_float_double, fast.grow_float_float, fast.grow_float_byte, options);
    } else {
        wrong_array("weights", weights, "float64 or float32");
    }
    py::dict out;
    out["total_before_norm"] = result.total;
    out["n_eff"] = result.n_eff;
    out["max"] = result.largest;
    return out;
}

template <class Value>
py::array_t<double> sums(const py::array& values, const py::array& offsets,
                         CompensatedSum (*long_sum)(const Value*, std::size_t), int threads) {
    const std::span<const std::int64_t> edges = view<std::int64_t>(offsets);
    check_offsets(edges, length(values));
    py::array_t<double> out(static_cast<py::ssize_t>(edges.size() - 1));
    const std::span<double> to(out.mutable_data(), edges.size() - 1);
    const auto* from = static_cast<const Value*>(values.data());
    const py::gil_scoped_release release;
    segment_sum<Value>(from, edges, to, long_sum, threads);
    return out;
}

py::array_t<double> segment_sums(const py::array& values, const py::array& offsets, int threads) {
    require_vector("values", values);
    require_vector("offsets", offsets);
    if (!holds<std::int64_t>(offsets)) {
        wrong_array("offsets", offsets, "int64");
    }
    const int workers = thread_number(threads);
    if (holds<double>(values)) {
        return sums<double>(values, offsets, kernels().sum_double, workers);
    }
    if (holds<float>(values)) {
        return sums<float>(values, offsets, kernels().sum_float, workers);
    }
    if (holds<std::uint8_t>(values) || holds<bool>(values)) {
        return sums<std::uint8_t>(values, offsets, kernels().sum_byte, workers);
    }
    wrong_array("values", values, "float64, float32, uint8 or bool");
}

constexpr const char* kUpdateDoc =
    "Grow weights in place: weights_j <- weights_j exp(alpha wrong_j), divided by their sum.\n\n"
    "weights: float64 or float32 [N]; wrong: float64 or float32 in [0, 1], or uint8 or bool, [N]; both C-contiguous,\n"
    "memory maps included. cap: no weight exceeds cap / N afterwards (cap >= 1): the excess goes to the weights below\n"
    "in proportion, until none exceeds it. Any exponent is safe, and any number of threads gives the same bits.\n"
    "Returns total_before_norm (the sum of weights_j exp(alpha wrong_j), inf where that overflows), n_eff (1 / the "
    "sum\n"
    "of the squares of the new weights) and max (the largest new weight).\n"
    "Raises ValueError, with the weights as they were, for a weight that is negative, NaN or infinite, for weights "
    "that\n"
    "are all 0, a wrong outside [0, 1], an alpha that is not finite, or a cap that the positive weights cannot meet.";

constexpr const char* kSegmentDoc =
    "Sums of values[offsets[s]:offsets[s + 1]], float64 [n].\n\n"
    "values: float64, float32, uint8 or bool [N]; offsets: int64 [n + 1], rising, in [0, N]; both C-contiguous. Sums\n"
    "are compensated; an empty segment gives 0, NaN and infinities go where they would in a plain sum.";

}  // namespace

void bind_weights(py::module_& module) {
    module.def("boost_update", &boost_update, py::arg("weights"), py::arg("wrong"), py::arg("alpha"),
               py::arg("cap") = py::none(), py::kw_only(), py::arg("threads") = 0, kUpdateDoc);
    module.def("segment_sum", &segment_sums, py::arg("values"), py::arg("offsets"), py::kw_only(),
               py::arg("threads") = 0, kSegmentDoc);
}

}  // namespace ensemw2s::python
