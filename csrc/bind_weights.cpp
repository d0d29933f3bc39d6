#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "bindings.hpp"
#include "boost_update.hpp"
#include "kernels.hpp"
#include "segment_sum.hpp"
#include "weighted_error.hpp"

namespace ensemw2s::python {
namespace {

template <class Weight, class Wrong>
struct Types {};

// Calls body(types, kernels) with the types of the two arrays' values, which must be as many.
template <class Weight, class Body>
auto with_flags(const py::array& wrong, const GrowthKernels<Weight, double>& by_double,
                const GrowthKernels<Weight, float>& by_float, const GrowthKernels<Weight, std::uint8_t>& by_byte,
                const Body& body) {
    if (holds<double>(wrong)) {
        return body(Types<Weight, double>{}, by_double);
    }
    if (holds<float>(wrong)) {
        return body(Types<Weight, float>{}, by_float);
    }
    if (holds<std::uint8_t>(wrong) || holds<bool>(wrong)) {
        return body(Types<Weight, std::uint8_t>{}, by_byte);
    }
    wrong_array("wrong", wrong, "float64, float32, uint8 or bool");
}

template <class Body>
auto with_types(const py::array& weights, const py::array& wrong, const Body& body) {
    require_vector("weights", weights);
    require_vector("wrong", wrong);
    if (length(wrong) != length(weights)) {
        wrong_array("wrong", wrong, "as many as there are weights, " + std::to_string(length(weights)));
    }
    const Kernels& fast = kernels();
    if (holds<double>(weights)) {
        return with_flags<double>(wrong, fast.grow_double_double, fast.grow_double_float, fast.grow_double_byte, body);
    }
    if (holds<float>(weights)) {
        return with_flags<float>(wrong, fast.grow_float_double, fast.grow_float_float, fast.grow_float_byte, body);
    }
    wrong_array("weights", weights, "float64 or float32");
}

std::span<const std::int64_t> checked_offsets(const py::array& offsets, std::size_t size) {
    require_vector("offsets", offsets);
    if (!holds<std::int64_t>(offsets)) {
        wrong_array("offsets", offsets, "int64");
    }
    const std::span<const std::int64_t> edges = view<std::int64_t>(offsets);
    check_offsets(edges, size);
    return edges;
}

py::array_t<double> one_for_each_segment(std::span<const std::int64_t> offsets) {
    return py::array_t<double>(static_cast<py::ssize_t>(offsets.size() - 1));
}

py::dict boost_update(const py::object& weight_values, const py::object& wrong_values, const py::object& alpha,
                      const py::object& cap, const py::object& total, const py::object& segments,
                      const py::object& threads) {
    const py::array weights = array_of("weights", weight_values);
    const py::array wrong = array_of("wrong", wrong_values);
    require_vector("weights", weights);
    require_writeable("weights", weights);
    require_apart("weights", weights, "wrong", wrong);
    UpdateOptions options;
    options.alpha = number("alpha", alpha);
    options.cap = number_or_none("cap", cap);
    options.total = number_or_none("total", total);
    options.threads = thread_number(threads);
    py::object sums = py::none();
    if (!segments.is_none()) {
        const py::array offsets = array_of("offsets", segments);
        require_apart("weights", weights, "offsets", offsets);
        options.offsets = checked_offsets(offsets, length(weights));
        auto places = one_for_each_segment(options.offsets);
        options.segment_sums = {places.mutable_data(), length(places)};
        sums = std::move(places);
    }
    const UpdateResult result =
        with_types(weights, wrong, [&]<class Weight, class Wrong>(Types<Weight, Wrong>, const auto& fast) {
            const std::span<Weight> values = mutable_view<Weight>(weights);
            const auto* flags = static_cast<const Wrong*>(wrong.data());
            const py::gil_scoped_release release;
            return BoostUpdate<Weight, Wrong>(values, flags, options, fast).run();
        });
    py::dict out;
    out["total_before_norm"] = result.total;
    out["sum"] = result.sum;
    out["n_eff"] = result.n_eff;
    out["max"] = result.largest;
    out["segment_sums"] = sums;
    return out;
}

py::dict weighted_errors(const py::object& weight_values, const py::object& wrong_values, const py::object& threads) {
    const py::array weights = array_of("weights", weight_values);
    const py::array wrong = array_of("wrong", wrong_values);
    const int workers = thread_number(threads);
    const WeightedError result =
        with_types(weights, wrong, [&]<class Weight, class Wrong>(Types<Weight, Wrong>, const auto& fast) {
            const std::span<const Weight> values = view<Weight>(weights);
            const auto* flags = static_cast<const Wrong*>(wrong.data());
            const py::gil_scoped_release release;
            return weighted_error(values, flags, fast, workers);
        });
    py::dict out;
    out["total"] = result.total;
    out["wrong"] = result.wrong;
    out["squares"] = result.squares;
    out["binary"] = result.binary;
    return out;
}

template <class Value>
void sums(const py::array& values, std::span<const std::int64_t> offsets, std::span<double> out, int threads) {
    const auto* from = static_cast<const Value*>(values.data());
    const py::gil_scoped_release release;
    segment_sum<Value>(from, offsets, out, threads);
}

py::array_t<double> segment_sums(const py::object& summed, const py::object& segments, const py::object& threads) {
    const py::array values = array_of("values", summed);
    const py::array offsets = array_of("offsets", segments);
    require_vector("values", values);
    const std::span<const std::int64_t> edges = checked_offsets(offsets, length(values));
    const int workers = thread_number(threads);
    auto out = one_for_each_segment(edges);
    const std::span<double> places(out.mutable_data(), length(out));
    if (holds<double>(values)) {
        sums<double>(values, edges, places, workers);
    } else if (holds<float>(values)) {
        sums<float>(values, edges, places, workers);
    } else if (holds<std::uint8_t>(values) || holds<bool>(values)) {
        sums<std::uint8_t>(values, edges, places, workers);
    } else {
        wrong_array("values", values, "float64, float32, uint8 or bool");
    }
    return out;
}

constexpr const char* kErrorDoc =
    "Sums for the weighted error: total of the weights, wrong of weights_j wrong_j, squares of weights_j**2, and "
    "binary:\n"
    "whether wrong is 0 or 1 everywhere. weights and wrong: as in boost_update, only read. Raises ValueError for a "
    "weight\n"
    "that is negative, NaN or infinite and a wrong outside [0, 1].";

constexpr const char* kUpdateDoc =
    "Grow weights in place: weights_j <- weights_j exp(alpha wrong_j), divided by their sum.\n\n"
    "weights: float64 or float32 [N]; wrong: float64 or float32 in [0, 1], or uint8 or bool, [N]; both C-contiguous,\n"
    "memory maps included. cap: no weight exceeds cap / N afterwards (cap >= 1): the excess goes to the weights below\n"
    "in proportion, until none exceeds it. total: what to divide by instead of the sum; where it is the sum, or near\n"
    "it, this spares a sweep over the weights (not used with a cap, nor where it or alpha is extreme). offsets: int64\n"
    "[n + 1] as in segment_sum. Any finite alpha and weights of any size are safe: where products are not, logarithms\n"
    "are taken. A new weight below the least number of its type is 0. Any number of threads gives the same bits.\n"
    "Returns total_before_norm (the sum of weights_j exp(alpha wrong_j), inf where that overflows), sum (of the new\n"
    "weights: 1 to rounding, unless total says otherwise), n_eff (sum**2 / the sum of the squares of the new "
    "weights),\n"
    "max (the largest new weight) and segment_sums (float64 [n], of the new weights, or None).\n"
    "Raises ValueError for a weight that is negative, NaN or infinite, for weights that are all 0, a wrong outside\n"
    "[0, 1], an alpha that is not finite, a cap that the positive weights cannot meet, a total far from the sum, or\n"
    "arrays that share memory. The weights are then as they were, except with total, where they may have been\n"
    "replaced.";

constexpr const char* kSegmentDoc =
    "Sums of values[offsets[s]:offsets[s + 1]], float64 [n].\n\n"
    "values: float64, float32, uint8 or bool [N]; offsets: int64 [n + 1], rising, in [0, N]; both C-contiguous. Sums\n"
    "are compensated; an empty segment gives 0, NaN and infinities go where they would in a plain sum.";

}  // namespace

void bind_weights(py::module_& module) {
    module.def("weighted_error", &weighted_errors, py::arg("weights"), py::arg("wrong"), py::kw_only(),
               py::arg("threads") = 0, kErrorDoc);
    module.def("boost_update", &boost_update, py::arg("weights"), py::arg("wrong"), py::arg("alpha"),
               py::arg("cap") = py::none(), py::kw_only(), py::arg("total") = py::none(),
               py::arg("offsets") = py::none(), py::arg("threads") = 0, kUpdateDoc);
    module.def("segment_sum", &segment_sums, py::arg("values"), py::arg("offsets"), py::kw_only(),
               py::arg("threads") = 0, kSegmentDoc);
}

}  // namespace ensemw2s::python
