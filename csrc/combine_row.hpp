// One position: what a single read of its logits leaves, and the combined distribution made of that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "combine_input.hpp"
#include "combine_kernels.hpp"

namespace ensemw2s {

// One expert's row. Undefined where the logits hold NaN or +inf or are all -inf; `peak` is then NaN, +inf or -inf.
struct ExpertRow {
    bool defined = false;
    double peak = 0.0;      // the largest logit
    double log_mass = 0.0;  // log of the sum of exp(logit - peak)
    double mass = 0.0;
    std::size_t argmax = 0;  // 0 where undefined

    [[nodiscard]] double log_sum_exp() const { return defined ? peak + log_mass : peak; }
};

// What the first read of an expert's row keeps of each block.
struct BlockTable {
    explicit BlockTable(std::size_t blocks)
        : largest(padded(blocks), kImpossible),
          sums(padded(blocks), 0.0),
          references(padded(blocks), static_cast<double>(kImpossible)) {}

    std::vector<float> largest;
    std::vector<double> sums;  // sums[b] * exp(references[b]) is the sum of exp(logit)
    std::vector<double> references;
};

// Reads blocks [first, last). Exact sums are formed in float64, the others in float32 within a block.
void read_blocks(const CombineInput& input, std::size_t row, std::size_t expert, std::size_t first, std::size_t last,
                 bool exact, BlockTable& table);

[[nodiscard]] ExpertRow summarise(const CombineInput& input, std::size_t row, std::size_t expert,
                                  const BlockTable& table);

// A token and what it is ordered by: falling rank, then rising number.
struct Candidate {
    float rank = 0.0F;
    std::size_t token = 0;

    [[nodiscard]] bool before(const Candidate& other) const {
        return rank > other.rank || (rank == other.rank && token < other.token);
    }
};

struct Weighted {
    Candidate candidate;
    double probability = 0.0;
};

// The combined distribution of one row at a time; memory for it is kept from row to row. Reads logits a second time
// where needed, which finds them in the cache.
class CombineRow {
public:
    CombineRow(const CombineInput& input, bool exact);

    // Reads the row, or takes what was read already (one table for each expert).
    void read(std::size_t row);
    void take(std::size_t row, std::span<const BlockTable> tables);

    [[nodiscard]] bool defined() const { return defined_; }
    [[nodiscard]] std::span<const ExpertRow> experts() const { return experts_; }
    [[nodiscard]] float logit(std::size_t expert, std::size_t token) const;

    // The rest is for defined rows.

    // The `count` most probable tokens in order (fewer where there are not so many).
    [[nodiscard]] std::span<const Candidate> most_probable(std::size_t count);
    // Combined log-probabilities of some tokens, with temperature.
    void log_probs_of(std::span<const std::size_t> tokens, std::span<double> out);
    // All of them.
    void write_log_probs(float* out);
    // Probabilities with temperature in block `block`, zeros behind its last token; valid until the next call.
    [[nodiscard]] std::span<const double> probabilities(std::size_t block);
    // All tokens with their ranks and probabilities, in the order of their numbers; not for the vote rule.
    void collect(std::vector<Weighted>& out);
    // Sums of probabilities(block).
    [[nodiscard]] std::vector<double> block_probabilities();

private:
    void collect_votes();
    void normalise_product();
    const Tempering& tempering();
    void evaluate(std::size_t block, double* out);
    void evaluate_at(std::span<const float* const> values, std::size_t size, double* out) const;
    void gather_block(std::size_t block);
    void bound_blocks();
    void offer_block(std::size_t block, std::size_t count);
    [[nodiscard]] bool promising(double bound, std::size_t first) const;
    void offer(Candidate candidate);
    void settle(std::size_t count, bool now);
    void most_probable_by_rank(std::size_t count);
    void votes_first(std::size_t count);

    const CombineInput* input_;
    const CombineKernels* fast_;
    Rule rule_;
    bool exact_;
    std::size_t row_ = 0;
    bool defined_ = false;
    std::vector<BlockTable> tables_;
    std::vector<ExpertRow> experts_;
    std::vector<std::size_t> active_;
    std::vector<Part> parts_;     // of the active experts
    Part product_;                // the largest sum of the product rule, and less the log of its mass
    std::vector<float> buffers_;  // one block for each expert
    std::vector<const float*> values_;
    std::vector<double> combined_;  // one block
    std::vector<float> group_tops_;
    std::vector<const float*> group_values_;
    std::vector<double> bounds_;  // no token of a block exceeds its bound; float64 or exact float32 ranks
    std::vector<std::size_t> order_;
    std::vector<Candidate> found_;
    Candidate last_;  // the last of found_ once there are enough
    bool full_ = false;
    struct Vote {
        std::size_t token = 0;
        double share = 0.0;
    };
    std::vector<Vote> votes_;
    bool tempering_known_ = false;
    Tempering tempering_;
    std::span<const BlockTable> read_tables_;
};

}  // namespace ensemw2s
