#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <set>
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

[[nodiscard]] Rule rule_of(const py::object& given) {
    if (!py::isinstance<py::str>(given)) {
        wrong_type("rule", given, "mixture, product or vote");
    }
    const std::string name = text_of(given).value_or("");
    if (name == "mixture") {
        return Rule::kMixture;
    }
    if (name == "product") {
        return Rule::kProduct;
    }
    if (name == "vote") {
        return Rule::kVote;
    }
    wrong_number("rule", given, "mixture, product or vote");
}

// What is combined, and the arrays in which it lies: nobody may free these meanwhile.
struct BoundInput {
    CombineInput input;
    std::vector<py::array> arrays;
};

[[nodiscard]] BoundInput input_of(const py::object& logits, const py::object& weights, const py::object& rule,
                                  const py::object& temperature) {
    BoundInput out;
    CombineInput& input = out.input;
    for (const py::object& item : items_of("logits", logits)) {
        out.arrays.push_back(array_of("logits[" + std::to_string(out.arrays.size()) + "]", item));
    }
    for (const py::object& item : items_of("weights", weights)) {
        input.weights.push_back(number("weights[" + std::to_string(input.weights.size()) + "]", item));
    }
    if (out.arrays.empty() || out.arrays.size() != input.weights.size()) {
        throw std::invalid_argument(std::to_string(input.weights.size()) + " weights for " +
                                    std::to_string(out.arrays.size()) +
                                    " experts; expected one for each, and at least one");
    }
    double total = 0.0;
    for (const double weight : input.weights) {
        if (!(weight >= 0.0) || std::isinf(weight)) {
            throw std::invalid_argument("a weight is " + std::to_string(weight) + "; expected finite and not negative");
        }
        total += weight;
    }
    if (!(std::abs(total - 1.0) < 1e-9)) {
        throw std::invalid_argument("weights sum to " + std::to_string(total) + "; expected 1");
    }
    input.temperature = number("temperature", temperature);
    if (!(input.temperature > 0.0) || std::isinf(input.temperature)) {
        wrong_number("temperature", temperature, "positive and finite");
    }
    const py::array& first = out.arrays[0];
    for (std::size_t k = 0; k < out.arrays.size(); ++k) {
        const std::string name = "logits[" + std::to_string(k) + "]";
        const py::array& array = out.arrays[k];
        input.experts.push_back(expert_of(name, array));
        if (array.shape(0) != first.shape(0) || array.shape(1) != first.shape(1) || array.shape(1) == 0) {
            wrong_array(name, array, "the shape of logits[0], with at least one token");
        }
    }
    input.rows = static_cast<std::size_t>(first.shape(0));
    input.vocabulary = static_cast<std::size_t>(first.shape(1));
    input.rule = rule_of(rule);
    return out;
}

// The arrays that results are written to. Keeps a hold on each: another thread may drop them from the dictionary.
class Results {
public:
    Results(const py::object& given, const BoundInput& bound) : bound_(bound) {
        if (!py::isinstance<py::dict>(given)) {
            wrong_type("results", given, "a dictionary");
        }
        for (const auto& [key, value] : py::reinterpret_borrow<py::dict>(given)) {
            const std::optional<std::string> name = text_of(key);
            if (!name) {
                wrong_type("a name in results", key, "the name of a result");
            }
            if (!value.is_none()) {
                arrays_.emplace(*name, array_of("results['" + *name + "']", value));
            }
        }
    }

    // The memory of a result; nullptr where it is not wanted.
    template <class Value>
    [[nodiscard]] Value* take(const std::string& name, const std::vector<std::size_t>& shape) {
        const py::array* found = find(name);
        taken_.insert(name);
        if (found == nullptr) {
            return nullptr;
        }
        const auto* const sides = found->shape();
        if (!holds<Value>(*found) || !in_one_piece(*found) ||
            !std::equal(shape.begin(), shape.end(), sides, sides + found->ndim(),
                        [](auto a, auto b) { return std::cmp_equal(a, b); })) {
            wrong_array(name, *found, "a C-contiguous array of " + wanted<Value>(shape));
        }
        require_writeable(name, *found);
        return static_cast<Value*>(py::array(*found).mutable_data());
    }

    [[nodiscard]] const py::array* find(const std::string& name) const {
        const auto place = arrays_.find(name);
        return place == arrays_.end() ? nullptr : &place->second;
    }

    // Throws unless all that is there was taken, and lies apart from all else.
    void check(const std::optional<py::array>& targets) const {
        for (auto it = arrays_.begin(); it != arrays_.end(); ++it) {
            const auto& [name, array] = *it;
            if (!taken_.contains(name)) {
                throw std::invalid_argument("results hold '" + name +
                                            "', which is no result of this call; known are the fields of "
                                            "CombineResult, those about targets only with targets");
            }
            for (auto other = std::next(it); other != arrays_.end(); ++other) {
                require_apart(name, array, other->first, other->second);
            }
            for (std::size_t k = 0; k < bound_.arrays.size(); ++k) {
                require_apart(name, array, "logits[" + std::to_string(k) + "]", bound_.arrays[k]);
            }
            if (targets) {
                require_apart(name, array, "targets", *targets);
            }
        }
    }

private:
    template <class Value>
    [[nodiscard]] static std::string wanted(const std::vector<std::size_t>& shape) {
        std::string out = py::str(py::dtype::of<Value>()).template cast<std::string>() + " and shape [";
        for (std::size_t axis = 0; axis < shape.size(); ++axis) {
            out += (axis > 0 ? ", " : "") + std::to_string(shape[axis]);
        }
        return out + "]";
    }

    const BoundInput& bound_;
    std::map<std::string, py::array> arrays_;
    std::set<std::string> taken_;
};

[[nodiscard]] const std::int64_t* checked_targets(const py::array& targets, const CombineInput& input) {
    require_vector("targets", targets);
    if (!holds<std::int64_t>(targets) || length(targets) != input.rows) {
        wrong_array("targets", targets, "int64 [N]");
    }
    const auto* const tokens = static_cast<const std::int64_t*>(targets.data());
    for (std::size_t row = 0; row < input.rows; ++row) {
        if (tokens[row] < 0 || std::cmp_greater_equal(tokens[row], input.vocabulary)) {
            throw std::invalid_argument("targets[" + std::to_string(row) + "] is " + std::to_string(tokens[row]) +
                                        "; expected a token in [0, V)");
        }
    }
    return tokens;
}

[[nodiscard]] CombineOutput output_of(Results& results, const CombineInput& input,
                                      const std::optional<py::array>& targets) {
    const std::size_t rows = input.rows;
    const std::size_t experts = input.experts.size();
    CombineOutput out;
    out.argmax = results.take<std::int64_t>("argmax", {rows});
    out.logprob = results.take<float>("logprob", {rows});
    out.expert_argmax = results.take<std::int64_t>("expert_argmax", {experts, rows});
    out.logsumexp = results.take<float>("logsumexp", {experts, rows});
    out.log_probs = results.take<float>("log_probs", {rows, input.vocabulary});
    if (const py::array* const ids = results.find("topk_ids"); ids != nullptr) {
        out.top_k = ids->ndim() == 2 ? static_cast<std::size_t>(ids->shape(1)) : 0;
        if (out.top_k == 0 || out.top_k > input.vocabulary) {
            wrong_array("topk_ids", *ids, "shape [N, k] with k in [1, V]");
        }
        out.topk_ids = results.take<std::int64_t>("topk_ids", {rows, out.top_k});
        out.topk_logprob = results.take<float>("topk_logprob", {rows, out.top_k});
    }
    if (targets) {
        out.targets = checked_targets(*targets, input);
        out.target_logprob = results.take<float>("target_logprob", {rows});
        out.expert_target_logprob = results.take<float>("expert_target_logprob", {experts, rows});
    }
    const bool missing = out.argmax == nullptr || out.logprob == nullptr || out.expert_argmax == nullptr ||
                         out.logsumexp == nullptr || (out.top_k > 0 && out.topk_logprob == nullptr) ||
                         (targets && (out.target_logprob == nullptr || out.expert_target_logprob == nullptr));
    if (missing) {
        throw std::invalid_argument(
            "results need argmax, logprob, expert_argmax and logsumexp; topk_logprob with topk_ids; target_logprob and "
            "expert_target_logprob with targets");
    }
    return out;
}

void combine_into(const py::object& logits, const py::object& weights, const py::object& rule,
                  const py::object& temperature, const py::object& target_tokens, const py::object& places,
                  const py::object& threads) {
    const BoundInput bound = input_of(logits, weights, rule, temperature);
    const int workers = thread_number(threads);
    std::optional<py::array> targets;
    if (!target_tokens.is_none()) {
        targets = array_of("targets", target_tokens);
    }
    Results results(places, bound);
    const CombineOutput output = output_of(results, bound.input, targets);
    results.check(targets);
    const py::gil_scoped_release release;
    combine(bound.input, output, workers);
}

[[nodiscard]] Truncation truncation_of(const py::object& top_k, const py::object& top_p, std::size_t vocabulary) {
    Truncation out;
    if (!top_k.is_none()) {
        constexpr const char* kAllowed = "an integer in [1, V]";
        out.top_k = whole_number("top_k", top_k, {vocabulary, kAllowed});
        if (*out.top_k == 0) {
            wrong_number("top_k", top_k, kAllowed);
        }
    }
    out.top_p = number_or_none("top_p", top_p);
    if (out.top_p && !(*out.top_p > 0.0 && *out.top_p <= 1.0)) {
        wrong_number("top_p", top_p, "a number in (0, 1]");
    }
    return out;
}

py::array_t<std::int64_t> sample_tokens(const py::object& logits, const py::object& weights, const py::object& rule,
                                        const py::object& temperature, const py::object& uniform_numbers,
                                        const py::object& top_k, const py::object& top_p, const py::object& threads) {
    const BoundInput bound = input_of(logits, weights, rule, temperature);
    const CombineInput& input = bound.input;
    const int workers = thread_number(threads);
    const py::array uniforms = array_of("uniforms", uniform_numbers);
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
    const Truncation truncation = truncation_of(top_k, top_p, input.vocabulary);
    py::array_t<std::int64_t> out(static_cast<py::ssize_t>(input.rows));
    std::int64_t* const tokens = out.mutable_data();
    {
        const py::gil_scoped_release release;
        sample(input, truncation, numbers, tokens, workers);
    }
    return out;
}

constexpr const char* kCombineDoc =
    "Combine the distributions of K experts into the arrays of `results`.\n\n"
    "logits: K arrays [N, V], float32, float16, or bfloat16 seen as int16, any strides; read in place. weights: sum "
    "to\n"
    "1; 0 leaves an expert out. results: C-contiguous arrays by the names of the fields of CombineResult, of their "
    "types\n"
    "and shapes; those that are absent are not computed. Raises TypeError for what is no array or number, ValueError\n"
    "for what does not fit and for results that share memory with anything else.";

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
