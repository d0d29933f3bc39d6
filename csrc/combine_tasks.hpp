// How rows are shared by threads. The choice never changes a result.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

#include "combine_input.hpp"
#include "combine_row.hpp"
#include "threads.hpp"

namespace ensemw2s {

inline constexpr std::size_t kTaskLogits = std::size_t{1} << 16U;  // a task reads about so many

// Few long rows: threads share the blocks of a row, then the rows.
template <class MakeUse>
void by_blocks(const CombineInput& input, bool exact, int threads, const MakeUse& make_use) {
    const std::size_t experts = input.experts.size();
    const std::size_t blocks = input.blocks();
    constexpr std::size_t kBlocksPerTask = kTaskLogits / kBlockTokens;
    const std::size_t parts = (blocks + kBlocksPerTask - 1) / kBlocksPerTask;
    std::vector<BlockTable> tables(input.rows * experts, BlockTable(blocks));
    parallel_for(tables.size() * parts, threads, [&](std::size_t task) {
        const std::size_t table = task / parts;
        const std::size_t first = task % parts * kBlocksPerTask;
        read_blocks(input, table / experts, table % experts, first, std::min(first + kBlocksPerTask, blocks), exact,
                    tables[table]);
    });
    parallel_for(input.rows, threads, [&](std::size_t row) {
        CombineRow combined(input, exact);
        combined.take(row, std::span(tables).subspan(row * experts, experts));
        make_use()(row, combined);
    });
}

template <class MakeUse>
void by_rows(const CombineInput& input, bool exact, std::size_t rows_per_task, int threads, const MakeUse& make_use) {
    parallel_for(block_count(input.rows, rows_per_task), threads, [&](std::size_t task) {
        CombineRow combined(input, exact);
        auto use = make_use();  // NOLINT(misc-const-correctness): it may have state
        const std::size_t first = task * rows_per_task;
        for (std::size_t row = first; row < std::min(first + rows_per_task, input.rows); ++row) {
            combined.read(row);
            use(row, combined);
        }
    });
}

// Calls make_use() in each task, and what it gives for each of the task's rows.
template <class MakeUse>
void for_each_row(const CombineInput& input, bool exact, int threads, const MakeUse& make_use) {
    const std::size_t logits_per_row = input.experts.size() * input.vocabulary;
    const std::size_t rows_per_task = std::max<std::size_t>(1, kTaskLogits / logits_per_row);
    const auto workers = static_cast<std::size_t>(resolve_threads(threads));
    if (workers > 1 && input.rows < 2 * workers && logits_per_row > kTaskLogits) {
        by_blocks(input, exact, threads, make_use);
    } else {
        by_rows(input, exact, rows_per_task, threads, make_use);
    }
}

}  // namespace ensemw2s
