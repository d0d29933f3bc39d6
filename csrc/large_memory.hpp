// Uninitialised memory for large tables that are looked up or filled in random order. Large pages spare most of the
// address translation, and most of the page faults, that this would need.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <type_traits>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ensemw2s {

inline constexpr std::align_val_t kLargePage{std::size_t{1} << 21U};

struct FreeLarge {
    void operator()(void* memory) const { ::operator delete(memory, kLargePage); }
};

template <class Value>
using LargeArray = std::unique_ptr<Value[], FreeLarge>;

template <class Value>
[[nodiscard]] LargeArray<Value> large_array(std::size_t size) {
    static_assert(std::is_trivially_copyable_v<Value> && std::is_trivially_destructible_v<Value>);
    const std::size_t bytes = size * sizeof(Value);
    void* memory = ::operator new(bytes, kLargePage);
#ifdef __linux__
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice only: nothing is lost where it is refused
#endif
    return LargeArray<Value>(static_cast<Value*>(memory));
}

}  // namespace ensemw2s
