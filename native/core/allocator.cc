// Pool: a training step asks for the same sizes again and again, and fresh pages cost more than the maths on small
// models (every first touch is a page fault). Small blocks wait by size class. Large ones are mapped one by one, serve a
// request that is up to an eighth smaller, and go back to the system, the longest idle first, when keeping them would take
// more memory than was ever in use: steps of varying length must not add up the sizes of all of them.
#include "allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "error.h"

namespace lathe {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kHuge = int64_t{2} << 20;
constexpr int64_t kLarge = kHuge;              // bytes from which blocks are mapped one by one
constexpr int64_t kIdleBytes = int64_t{64} << 20;  // may stay idle beyond the highest use so far

/// Classes are an eighth of a power of two apart: at most 12.5 % is lost, and near-equal sizes share blocks.
int64_t size_class(int64_t bytes) {
  bytes = std::max(bytes, kAlign);
  int64_t step = kAlign;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

/// A block that begins at a huge page; null when there is no memory. Sizes of large classes are whole pages.
void* map_large(int64_t size) {
  const size_t room = static_cast<size_t>(size + kHuge);
  void* mapped = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  char* begin = static_cast<char*>(mapped);
  const size_t before = static_cast<size_t>(-reinterpret_cast<uintptr_t>(begin) & (kHuge - 1));
  if (before > 0) munmap(begin, before);
  const size_t after = room - before - static_cast<size_t>(size);
  if (after > 0) munmap(begin + before + size, after);
#ifdef MADV_HUGEPAGE
  madvise(begin + before, static_cast<size_t>(size), MADV_HUGEPAGE);
#endif
  return begin + before;
}

struct Idle {
  void* data;
  uint64_t since;
};

struct Pool {
  std::mutex mutex;
  std::map<int64_t, std::vector<void*>> small;      // idle, by class
  std::multimap<int64_t, Idle> large;               // idle, by size
  std::unordered_map<void*, int64_t> large_in_use;  // their sizes: a request may have got more than it asked for
  int64_t in_use = 0, peak = 0, pooled = 0, limit = 0;
  uint64_t clock = 0;

  void drop(std::multimap<int64_t, Idle>::iterator block) {
    munmap(block->second.data, static_cast<size_t>(block->first));
    pooled -= block->first;
    large.erase(block);
  }

  void trim() {
    for (auto& [size, blocks] : small) {
      for (void* block : blocks) std::free(block);
      pooled -= size * static_cast<int64_t>(blocks.size());
    }
    small.clear();
    while (!large.empty()) drop(large.begin());
  }

  /// Gives large idle blocks back until `size` more bytes keep in_use + pooled within `most`.
  void make_room(int64_t size, int64_t most) {
    while (!large.empty() && in_use + pooled + size > most) {
      drop(std::min_element(large.begin(), large.end(),
                            [](const auto& a, const auto& b) { return a.second.since < b.second.since; }));
    }
  }

  /// An idle block for `size` bytes, or null; sets `size` to what it has.
  void* reuse(int64_t& size) {
    if (size < kLarge) {
      const auto found = small.find(size);
      if (found == small.end() || found->second.empty()) return nullptr;
      void* data = found->second.back();
      found->second.pop_back();
      pooled -= size;
      return data;
    }
    const auto found = large.lower_bound(size);
    if (found == large.end() || found->first > size + size / 8) return nullptr;
    void* data = found->second.data;
    size = found->first;
    pooled -= size;
    large.erase(found);
    return data;
  }

  void* fresh(int64_t size) {
    make_room(size, std::max(peak, in_use + size) + kIdleBytes);
    if (limit > 0 && in_use + pooled + size > limit) trim();
    const auto take = [size] {
      return size < kLarge ? std::aligned_alloc(static_cast<size_t>(kAlign), static_cast<size_t>(size))
                           : map_large(size);
    };
    if (limit > 0 && in_use + size > limit) return nullptr;
    void* data = take();
    if (data) return data;
    trim();
    return take();
  }
};

/// Leaked on purpose: finalizers may run while static objects are destroyed.
Pool& pool() {
  static Pool* instance = new Pool();
  return *instance;
}

}  // namespace

void* pool_allocate(int64_t bytes) {
  if (bytes < 0 || bytes > (int64_t{1} << 46)) throw Error(ErrorCode::out_of_memory, "size out of range");
  int64_t size = size_class(bytes);
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  void* data = p.reuse(size);
  if (!data) data = p.fresh(size);
  if (!data) {
    throw Error(ErrorCode::out_of_memory,
                "cannot allocate " + std::to_string(size) + " bytes: " + std::to_string(p.in_use) + " in use" +
                    (p.limit > 0 ? ", limit " + std::to_string(p.limit) : ""));
  }
  if (size >= kLarge) p.large_in_use.emplace(data, size);
  p.in_use += size;
  p.peak = std::max(p.peak, p.in_use);
  return data;
}

void pool_release(void* data, int64_t bytes) {
  if (!data) return;
  int64_t size = size_class(bytes);
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  if (size < kLarge) {
    p.small[size].push_back(data);
  } else {
    const auto found = p.large_in_use.find(data);
    size = found->second;
    p.large_in_use.erase(found);
    p.large.emplace(size, Idle{data, p.clock++});
  }
  p.in_use -= size;
  p.pooled += size;
}

void pool_trim() {
  std::lock_guard<std::mutex> lock(pool().mutex);
  pool().trim();
}

void pool_set_limit(int64_t bytes) {
  std::lock_guard<std::mutex> lock(pool().mutex);
  pool().limit = bytes;
}

MemoryStats pool_stats() {
  std::lock_guard<std::mutex> lock(pool().mutex);
  const Pool& p = pool();
  return {p.in_use, p.peak, p.pooled, p.limit};
}

}  // namespace lathe
