#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
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
        return make_sampler<double>(weights, threads);
    }
    if (holds<float>(weights)) {
        return make_sampler<float>(weights, threads);
    }
    wrong_array("weights", weights, "float64 or float32");
}

// A sampler and the array that it reads.
class BoundSampler {
public:
    BoundSampler(const py::object& weights, const py::object& threads)
        : weights_(array_of("weights", weights)), sampler_(make_sampler(weights_, thread_number(threads))) {}

    // pybind11 hands out such memory as it is for an object that __new__ made and __init__ never saw.
    static void* operator new(std::size_t size) {
        void* memory = ::operator new(size);
        std::memset(memory, 0, size);
        return memory;
    }
    static void operator delete(void* memory) { ::operator delete(memory); }

    [[nodiscard]] std::size_t size() const { return sampler().size(); }
    [[nodiscard]] std::size_t positive() const { return sampler().positive(); }
    [[nodiscard]] double total() const { return sampler().total(); }

    [[nodiscard]] double probability(const py::object& category) const {
        const std::string allowed = "an integer in [0, " + std::to_string(size()) + ")";
        try {
            return sampler().probability(whole_number("i", category, {size() - 1, allowed.c_str()}));
        } catch (const std::invalid_argument& error) {
            throw py::index_error(error.what());
        }
    }

    [[nodiscard]] py::array_t<std::int64_t> sample(const py::object& n, const py::object& seed,
                                                   const py::object& stream, const py::object& replacement,
                                                   const py::object& sorted, const py::object& start) const {
        const Sampler& from = sampler();
        const std::uint64_t count = whole_number("n", n, kAnySize);
        const std::uint64_t key = whole_number("seed", seed, kAnyWord);
        const std::uint64_t number = whole_number("stream", stream, kAnyWord);
        const std::uint64_t first = whole_number("start", start, kNumbers);
        const bool again = truth("replacement", replacement);
        const bool in_order = truth("sorted", sorted);
        if (first > 0 && (!again || in_order)) {
            throw std::invalid_argument("start is " + std::to_string(first) +
                                        "; draws that are sorted or without replacement come all at once, from 0 on");
        }
        if (count > kMostNumbers - first) {
            throw std::invalid_argument("n is " + std::to_string(count) + " and start " + std::to_string(first) +
                                        "; expected n + start of at most 2**60, the draws of a stream");
        }
        if (!again) {
            from.require_positive(count);  // before memory is asked for
        }
        py::array_t<std::int64_t> out(static_cast<py::ssize_t>(count));
        const std::span<std::int64_t> draws(out.mutable_data(), count);
        const py::gil_scoped_release release;
        if (!again) {
            from.draw_without_replacement(key, number, draws);
            if (in_order) {
                sort_distinct(draws, from.size());
            }
        } else if (in_order) {
            from.draw_sorted(key, number, draws);
        } else {
            from.draw(key, number, first, draws);
        }
        return out;
    }

private:
    static constexpr Range kNumbers{kMostNumbers, "an integer in [0, 2**60]: a stream has 2**60 draws"};

    [[nodiscard]] const Sampler& sampler() const {
        if (sampler_ == nullptr) {
            throw py::type_error("this WeightedSampler was made without a call of __init__");
        }
        return *sampler_;
    }

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
    "With replacement, draw k depends on (seed, stream, k) alone, and start leaves out the draws before it; a stream\n"
    "has 2**60 draws. Probabilities are right to 2**-32 / size, and a category of positive weight has at least that.\n"
    "sorted=True gives draws in increasing order, faster for many; these are other draws, and depend on n too; sums\n"
    "of weights are float64, so a weight below 2**-53 of the sum may never be drawn. Without replacement, categories\n"
    "come in the order in which they are drawn (sorted=True: in increasing order), a smaller sample is the beginning\n"
    "of a larger one, and weights of any size have their exact order.\n"
    "seed and stream: in [0, 2**64). Raises ValueError where n without replacement exceeds the number of positive\n"
    "weights or a number is outside its range, TypeError for what is no integer.";

}  // namespace

void bind_sampler(py::module_& module) {  // NOLINT(misc-const-correctness): the module is what changes
    py::class_<BoundSampler>(module, "WeightedSampler", kClassDoc)
        .def(py::init<const py::object&, const py::object&>(), py::arg("weights"), py::kw_only(),
             py::arg("threads") = 0)
        .def("sample", &BoundSampler::sample, py::arg("n"), py::arg("seed"), py::arg("stream") = 0, py::kw_only(),
             py::arg("replacement") = true, py::arg("sorted") = false, py::arg("start") = 0, kSampleDoc)
        .def("probability", &BoundSampler::probability, py::arg("i"), "Weight of category i divided by the total.")
        .def_property_readonly("size", &BoundSampler::size, "Number of categories.")
        .def_property_readonly("positive", &BoundSampler::positive, "Number of weights above 0.")
        .def_property_readonly("total", &BoundSampler::total, "Sum of the weights.");
}

}  // namespace ensemw2s::python
