// Work in numbered tasks, shared by threads. Tasks have fixed boundaries that do not depend on the number of threads,
// and their results are combined in the order of their numbers, so any number of threads gives the same bits.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace ensemw2s {

// Elements in a task. Also the length over which sums are formed before they are combined: changing it changes bits.
inline constexpr std::size_t kBlock = 16384;

[[nodiscard]] constexpr std::size_t block_count(std::size_t size, std::size_t block = kBlock) {
    return (size + block - 1) / block;
}

// More threads than this bring nothing, and libgomp ends the process where it cannot start one.
[[nodiscard]] inline int most_threads() {
    constexpr int kEnough = 64;
    static const int most = std::max(kEnough, 4 * static_cast<int>(std::thread::hardware_concurrency()));
    return most;
}

[[nodiscard]] inline int resolve_threads(int requested) {
    if (requested > 0) {
        return std::min(requested, most_threads());
    }
#ifdef _OPENMP
    return std::min(omp_get_max_threads(), most_threads());
#else
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
#endif
}

// A forked child has none of its parent's threads, while libgomp waits for those that it had there: such a child works
// with threads of its own instead.
inline std::atomic<bool> in_forked_child{false};

inline void watch_forks() {
#if defined(__unix__) || defined(__APPLE__)
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
#endif
}

// Keeps the first exception of several threads until it can be thrown in the caller's.
class ExceptionSlot {
public:
    template <class Body>
    void run(const Body& body, std::size_t task) noexcept {
        try {
            body(task);
        } catch (...) {
            const std::scoped_lock lock(mutex_);
            if (!first_) {
                first_ = std::current_exception();
            }
        }
    }

    void rethrow() const {
        if (first_) {
            std::rethrow_exception(first_);
        }
    }

private:
    std::mutex mutex_;
    std::exception_ptr first_;
};

// Tasks that a thread takes at a time: neighbours, whose memory then comes in one stream, but few enough for the
// threads to end together.
[[nodiscard]] constexpr std::size_t tasks_at_a_time(std::size_t tasks, int workers) {
    constexpr std::size_t kMost = 16;
    constexpr std::size_t kTurns = 16;  // at least, for every thread
    return std::clamp<std::size_t>(tasks / (kTurns * static_cast<std::size_t>(workers)), 1, kMost);
}

// Whether one more thread could be started.
template <class Work>
[[nodiscard]] bool started(std::vector<std::thread>& threads, const Work& work) {
    try {
        threads.emplace_back(work);
        return true;
    } catch (const std::system_error&) {
        return false;
    }
}

// Calls run(task) for every task in [0, tasks) in threads that end with it; `run` throws nothing.
template <class Run>
void in_own_threads(std::size_t tasks, int workers, std::size_t together, const Run& run) {
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
        for (std::size_t first = next.fetch_add(together); first < tasks; first = next.fetch_add(together)) {
            for (std::size_t task = first; task < std::min(tasks, first + together); ++task) {
                run(task);
            }
        }
    };
    std::vector<std::thread> others;
    others.reserve(static_cast<std::size_t>(workers - 1));
    for (int i = 1; i < workers; ++i) {
        if (!started(others, work)) {
            break;  // fewer will do
        }
    }
    work();
    for (std::thread& other : others) {
        other.join();
    }
}

// Calls body(task) for every task in [0, tasks), in any order. `threads` 0 is the default number.
template <class Body>
void parallel_for(std::size_t tasks, int threads, const Body& body) {
    const auto workers =
        static_cast<int>(std::min<std::size_t>(tasks, static_cast<std::size_t>(resolve_threads(threads))));
    if (workers <= 1) {
        for (std::size_t task = 0; task < tasks; ++task) {
            body(task);
        }
        return;
    }
    ExceptionSlot slot;
    const std::size_t together = tasks_at_a_time(tasks, workers);
#ifdef _OPENMP
    if (!in_forked_child) {
#pragma omp parallel for schedule(dynamic, together) num_threads(workers)
        for (std::size_t task = 0; task < tasks; ++task) {
            slot.run(body, task);
        }
        slot.rethrow();
        return;
    }
#endif
    in_own_threads(tasks, workers, together, [&](std::size_t task) { slot.run(body, task); });
    slot.rethrow();
}

}  // namespace ensemw2s
