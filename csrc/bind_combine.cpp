#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "bindings.hpp"
#include "combine.hpp"

namespace ensemw2s::python {
namespace {

[[nodiscard]] Element element_of(const std::string& name, const py::array& array) {
    if (holds<float>(array)) {
        return Element::kFloat32;
    }
    const py::dtype type = array.dtype();
    if (type.itemsize() == 2 && type.kind() == 'f' && type.byteorder() != '>') {
        return Element::kFloat16;
    }
    if (holds<std::int16_t>(array)) {
        return Element::kBfloat16;
    }
    wrong_array(name, array, "float32, float16, or bfloat16 seen as int16");
}

[[nodiscard]] ExpertView expert_of(const std::string& name, const py::array& array) {
    constexpr auto kAligned = unsigned{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
    if (array.ndim() != 2 || (static_cast<unsigned>(array.flags()) & kAligned) == 0) {
        wrong_array(name, array, "an aligned array of shape [N, V]");
    }
    return {static_cast<const std::byte*>(array.data()), array.strides(0), array.strides(1), element_of(name, array)};
}

[[nodiscard]] Rule rule_of(const std::string& name) {
    if (name == "mixture") {
        return Rule::kMixture;
    }
    if (name == "product") {
        return Rule::kProduct;
    }
    if (name == "vote") {
        return Rule::kVote;
    }
    throw std::invalid_argument("rule is '" + name + "'; expected mixture, product or vote");
}

[[nodiscard]] CombineInput input_of(const std::vector<py::array>& logits, const std::vector<double>& weights,
                                    const std::string& rule, double temperature) {
    if (logits.empty() || logits.size() != weights.size()) {
        throw std::invalid_argument(std::to_string(weights.size()) + " weights for " + std::to_string(logits.size()) +
                                    " experts; expected one for each, and at least one");
    }
    CombineInput input;
    double total = 0.0;
    for (const double weight : weights) {
        if (!(weight >= 0.0) || std::isinf(weight)) {
            throw std::invalid_argument("a weight is " + std::to_string(weight) + "; expected finite and not negative");
        }
        total += weight;
    }
    if (!(std::abs(total - 1.0) < 1e-9)) {
        throw std::invalid_argument("weights sum to " + std::to_string(total) + "; expected 1");
    }
    if (!(temperature > 0.0) || std::isinf(temperature)) {
        throw std::invalid_argument("temperature is " + std::to_string(temperature) + "; expected positive and finite");
    }
    for (std::size_t k = 0; k < logits.size(); ++k) {
        const std::string name = "logits[" + std::to_string(k) + "]";
        input.experts.push_back(expert_of(name, logits[k]));
        if (logits[k].shape(0) != logits[0].shape(0) || logits[k].shape(1) != logits[0].shape(1) ||
            logits[k].shape(1) == 0) {
            wrong_array(name, logits[k], "the shape of logits[0], with at least one token");
        }
    }
    input.weights = weights;
    input.rows = static_cast<std::size_t>(logits[0].shape(0));
    input.vocabulary = static_cast<std::size_t>(logits[0].shape(1));
    input.rule = rule_of(rule);
    input.temperature = temperature;
    return input;
}

// The memory of a result; nullptr where there is none.
template <class Value>
[[nodiscard]] Value* result(const char* name, std::optional<py::array>& array, std::size_t size) {
    if (!array) {
        return nullptr;
    }
    constexpr auto kWanted = unsigned{py::array::c_style} | unsigned{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
    if (!holds<Value>(*array) || length(*array) != size ||
        (static_cast<unsigned>(array->flags()) & kWanted) != kWanted) {
        wrong_array(name, *array, "a C-contiguous array of the result's type and size " + std::to_string(size));
    }
    require_writeable(name, *array);
    return static_cast<Value*>(array->mutable_data());
}

using Results = py::dict;

[[nodiscard]] std::optional<py::array> take(const Results& results, const char* name) {
    if (!results.contains(name) || results[name].is_none()) {
        return std::nullopt;
    }
    return results[name].cast<py::array>();
}

void combine_into(const std::vector<py::array>& logits, const std::vector<double>& weights, const std::string& rule,
                  double temperature, const std::optional<py::array>& targets, const Results& results, int threads) {
    const CombineInput input = input_of(logits, weights, rule, temperature);
    const int workers = thread_number(threads);
    const std::size_t rows = input.rows;
    const std::size_t all = rows * input.experts.size();
    const auto ints = [&](const char* name, std::size_t size) {
        auto array = take(results, name);
        return result<std::int64_t>(name, array, size);
    };
    const auto floats = [&](const char* name, std::size_t size) {
        auto array = take(results, name);
        return result<float>(name, array, size);
    };
    CombineOutput output;
    output.argmax = ints("argmax", rows);
    output.logprob = floats("logprob", rows);
    output.expert_argmax = ints("expert_argmax", all);
    output.logsumexp = floats("logsumexp", all);
    output.log_probs = floats("log_probs", rows * input.vocabulary);
    if (const auto ids = take(results, "topk_ids")) {
        output.top_k = ids->ndim() == 2 ? static_cast<std::size_t>(ids->shape(1)) : 0;
        if (output.top_k == 0 || output.top_k > input.vocabulary) {
            wrong_array("topk_ids", *ids, "shape [N, k] with k in [1, V]");
        }
        output.topk_ids = ints("topk_ids", rows * output.top_k);
        output.topk_logprob = floats("topk_logprob", rows * output.top_k);
    }
    if (targets) {
        require_vector("targets", *targets);
        if (!holds<std::int64_t>(*targets) || length(*targets) != rows) {
            wrong_array("targets", *targets, "int64 [N]");
        }
        output.targets = static_cast<const std::int64_t*>(targets->data());
        for (std::size_t row = 0; row < rows; ++row) {
            if (output.targets[row] < 0 || std::cmp_greater_equal(output.targets[row], input.vocabulary)) {
                throw std::invalid_argument("targets[" + std::to_string(row) + "] is " +
                                            std::to_string(output.targets[row]) + "; expected a token in [0, V)");
            }
        }
        output.target_logprob = floats("target_logprob", rows);
        output.expert_target_logprob = floats("expert_target_logprob", all);
    }
    const bool missing = output.argmax == nullptr || output.logprob == nullptr || output.expert_argmax == nullptr ||
                         output.logsumexp == nullptr || (output.top_k > 0 && output.topk_logprob == nullptr) ||
                         (targets && (output.target_logprob == nullptr || output.expert_target_logprob == nullptr));
    if (missing) {
        throw std::invalid_argument(
            "results need argmax, logprob, expert_argmax and logsumexp; topk_logprob with topk_ids; target_logprob and "
            "expert_target_logprob with targets");
    }
    const py::gil_scoped_release release;
    combine(input, output, workers);
}

py::array_t<std::int64_t> sample_tokens(const std::vector<py::array>& logits, const std::vector<double>& weights,
                                        const std::string& rule, double temperature, const py::array& uniforms,
                                        std::optional<std::size_t> top_k, std::optional<double> top_p, int threads) {
    const CombineInput input = input_of(logits, weights, rule, temperature);
    const int workers = thread_number(threads);
    require_vector("uniforms", uniforms);
    if (!holds<double>(uniforms) || length(uniforms) != input.rows) {
        wrong_array("uniforms", uniforms, "float64 [N]");
    }
    const auto* const numbers = static_cast<const double*>(uniforms.data());
    for (std::size_t row = 0; row < input.rows; ++row) {
        if (!(numbers[row] >= 0.0) || !(numbers[row] < 1.0)) {
            throw std::invalid_argument("uniforms[" + std::to_string(row) + "] is " + std::to_string(numbers[row]) +
                                        "; expected a number in [0, 1)");
        }
    }
    if (top_k && (*top_k == 0 || *top_k > input.vocabulary)) {
        throw std::invalid_argument("top_k is " + std::to_string(*top_k) + "; expected a number in [1, V]");
    }
    if (top_p && !(*top_p > 0.0 && *top_p <= 1.0)) {
        throw std::invalid_argument("top_p is " + std::to_string(*top_p) + "; expected a number in (0, 1]");
    }
    py::array_t<std::int64_t> out(static_cast<py::ssize_t>(input.rows));
    std::int64_t* const tokens = out.mutable_data();
    {
        const py::gil_scoped_release release;
        sample(input, {top_k, top_p}, numbers, tokens, workers);
    }
    return out;
}

constexpr const char* kCombineDoc =
    "Combine the distributions of K experts into the arrays of `results`.\n\n"
    "logits: K arrays [N, V], float32, float16, or bfloat16 seen as int16, any strides; read in place. weights: sum "
    "to\n"
    "1; 0 leaves an expert out. results: C-contiguous arrays by the names of the fields of CombineResult; those that\n"
    "are absent are not computed.";

constexpr const char* kSampleDoc =
    "Draw a token for each row, int64 [N], at uniforms float64 [N] in [0, 1); -1 in undefined rows.";

}  // namespace

void bind_combine(py::module_& module) {
    module.def("combine_into", &combine_into, py::arg("logits"), py::arg("weights"), py::kw_only(), py::arg("rule"),
               py::arg("temperature"), py::arg("targets"), py::arg("results"), py::arg("threads") = 0, kCombineDoc);
    module.def("sample_tokens", &sample_tokens, py::arg("logits"), py::arg("weights"), py::kw_only(), py::arg("rule"),
               py::arg("temperature"), py::arg("uniforms"), py::arg("top_k") = py::none(),
               py::arg("top_p") = py::none(), py::arg("threads") = 0, kSampleDoc);
}

}  // namespace ensemw2s::python
