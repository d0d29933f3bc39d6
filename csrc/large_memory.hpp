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

// For memory that is about to be filled: fresh memory then costs a page fault for 2 MB instead of 4 kB. Advice only:
// nothing is lost where it is refused.
inline void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t bytes) {
#ifdef __linux__
    constexpr auto kSize = static_cast<std::size_t>(kLargePage);
    void* first = memory;
    std::size_t room = bytes;
    if (std::align(kSize, kSize, first, room) != nullptr) {
        madvise(first, room, MADV_HUGEPAGE);
    }
#endif
}

template <class Value>
[[nodiscard]] LargeArray<Value> large_array(std::size_t size) {
    static_assert(std::is_trivially_copyable_v<Value> && std::is_trivially_destructible_v<Value>);
    const std::size_t bytes = size * sizeof(Value);
    void* memory = ::operator new(bytes, kLargePage);
    prefer_large_pages(memory, bytes);
    return LargeArray<Value>(static_cast<Value*>(memory));
}

}  // namespace ensemw2s
