#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "bindings.hpp"
#include "sampler.hpp"

namespace ensemw2s::python {
namespace {

template <class Weight>
std::unique_ptr<Sampler> make_sampler(const py::array& weights, int threads) {
    const std::span<const Weight> values = view<Weight>(weights);
    const py::gil_scoped_release release;
    return std::make_unique<WeightedSampler<Weight>>(values, threads);
}

std::unique_ptr<Sampler> make_sampler(const py::array& weights, int threads) {
    require_vector("weights", weights);
    if (holds<double>(weights)) {
        return make_sampler<double>(weights, thread_number(threads));
    }
    if (holds<float>(weights)) {
        return make_sampler<float>(weights, thread_number(threads));
    }
    wrong_array("weights", weights, "float64 or float32");
}

// A sampler and the array that it reads.
class BoundSampler {
public:
    BoundSampler(py::array weights, int threads)
        : weights_(std::move(weights)), sampler_(make_sampler(weights_, threads)) {}

    [[nodiscard]] std::size_t size() const { return sampler_->size(); }
    [[nodiscard]] std::size_t positive() const { return sampler_->positive(); }
    [[nodiscard]] double total() const { return sampler_->total(); }

    [[nodiscard]] double probability(py::ssize_t category) const {
        if (category < 0 || static_cast<std::size_t>(category) >= size()) {
            throw py::index_error("category " + std::to_string(category) + " of " + std::to_string(size()));
        }
        return sampler_->probability(static_cast<std::size_t>(category));
    }

    [[nodiscard]] py::array_t<std::int64_t> sample(py::ssize_t n, const py::object& seed, const py::object& stream,
                                                   bool replacement, bool sorted, const py::object& start) const {
        if (n < 0) {
            throw std::invalid_argument("n is " + std::to_string(n) + "; expected at least 0");
        }
        const std::uint64_t key = unsigned_64("seed", seed);
        const std::uint64_t number = unsigned_64("stream", stream);
        const std::uint64_t first = unsigned_64("start", start);
        if (first > 0 && (!replacement || sorted)) {
            throw std::invalid_argument("start is " + std::to_string(first) +
                                        "; draws that are sorted or without replacement come all at once, from 0 on");
        }
        py::array_t<std::int64_t> out(n);
        const std::span<std::int64_t> draws(out.mutable_data(), static_cast<std::size_t>(n));
        const py::gil_scoped_release release;
        if (!replacement) {
            sampler_->draw_without_replacement(key, number, draws);
            if (sorted) {
                sort_distinct(draws, size());
            }
        } else if (sorted) {
            sampler_->draw_sorted(key, number, draws);
        } else {
            sampler_->draw(key, number, first, draws);
        }
        return out;
    }

private:
    py::array weights_;
    std::unique_ptr<Sampler> sampler_;
};

constexpr const char* kClassDoc =
    "Draws categories in proportion to weights.\n\n"
    "weights: float64 or float32 [n], C-contiguous, memory maps included. They are read in place and must not change\n"
    "while the sampler is in use. threads: 0 is the default number; it never changes a result.\n"
    "Raises ValueError for weights that are negative, NaN or infinite (the first is named), all 0, or whose sum\n"
    "overflows.";

constexpr const char* kSampleDoc =
    "Draw n categories, int64 [n].\n\n"
    "With replacement, draw k depends on (seed, stream, k) alone, and start leaves out the draws before it. "
    "sorted=True\n"
    "gives draws in increasing order, faster for many; these are other draws, and depend on n too. Without "
    "replacement,\n"
    "categories come in the order in which they are drawn (sorted=True: in increasing order), and a smaller sample is\n"
    "the beginning of a larger one.\n"
    "Raises ValueError where n without replacement exceeds the number of positive weights.";

}  // namespace

void bind_sampler(py::module_& module) {  // NOLINT(misc-const-correctness): the module is what changes
    py::class_<BoundSampler>(module, "WeightedSampler", kClassDoc)
        .def(py::init<py::array, int>(), py::arg("weights"), py::kw_only(), py::arg("threads") = 0)
        .def("sample", &BoundSampler::sample, py::arg("n"), py::arg("seed"), py::arg("stream") = 0, py::kw_only(),
             py::arg("replacement") = true, py::arg("sorted") = false, py::arg("start") = 0, kSampleDoc)
        .def("probability", &BoundSampler::probability, py::arg("i"), "Weight of category i divided by the total.")
        .def_property_readonly("size", &BoundSampler::size, "Number of categories.")
        .def_property_readonly("positive", &BoundSampler::positive, "Number of weights above 0.")
        .def_property_readonly("total", &BoundSampler::total, "Sum of the weights.");
}

}  // namespace ensemw2s::python
