// Size-class pool: a training step asks for the same sizes again and again, and fresh pages cost more than the
// maths on small models (every first touch is a page fault).
#include "allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "error.h"

namespace lathe {
namespace {

constexpr int64_t kAlign = 64;
constexpr int64_t kHuge = int64_t{2} << 20;

/// Classes are an eighth of a power of two apart: at most 12.5 % is lost, and near-equal sizes share blocks.
int64_t size_class(int64_t bytes) {
  bytes = std::max(bytes, kAlign);
  int64_t step = kAlign;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

struct Pool {
  std::mutex mutex;
  std::map<int64_t, std::vector<void*>> free_blocks;
  int64_t in_use = 0, peak = 0, pooled = 0, limit = 0;

  void trim() {
    for (auto& [size, blocks] : free_blocks) {
      for (void* block : blocks) std::free(block);
      pooled -= size * static_cast<int64_t>(blocks.size());
    }
    free_blocks.clear();
  }
};

/// Leaked on purpose: finalizers may run while static objects are destroyed.
Pool& pool() {
  static Pool* instance = new Pool();
  return *instance;
}

void* system_allocate(int64_t size) {
  const int64_t align = size >= kHuge ? kHuge : kAlign;
  const int64_t rounded = (size + align - 1) / align * align;
  void* data = std::aligned_alloc(static_cast<size_t>(align), static_cast<size_t>(rounded));
#ifdef MADV_HUGEPAGE
  if (data && size >= kHuge) madvise(data, static_cast<size_t>(rounded), MADV_HUGEPAGE);
#endif
  return data;
}

}  // namespace

void* pool_allocate(int64_t bytes) {
  if (bytes < 0 || bytes > (int64_t{1} << 46)) throw Error(ErrorCode::out_of_memory, "size out of range");
  const int64_t size = size_class(bytes);
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  void* data = nullptr;
  auto found = p.free_blocks.find(size);
  if (found != p.free_blocks.end() && !found->second.empty()) {
    data = found->second.back();
    found->second.pop_back();
    p.pooled -= size;
  } else {
    if (p.limit > 0 && p.in_use + p.pooled + size > p.limit) p.trim();
    const bool fits = p.limit == 0 || p.in_use + size <= p.limit;
    data = fits ? system_allocate(size) : nullptr;
    if (!data && fits) {
      p.trim();
      data = system_allocate(size);
    }
    if (!data) {
      throw Error(ErrorCode::out_of_memory,
                  "cannot allocate " + std::to_string(size) + " bytes: " + std::to_string(p.in_use) + " in use" +
                      (p.limit > 0 ? ", limit " + std::to_string(p.limit) : ""));
    }
  }
  p.in_use += size;
  p.peak = std::max(p.peak, p.in_use);
  return data;
}

void pool_release(void* data, int64_t bytes) {
  if (!data) return;
  const int64_t size = size_class(bytes);
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  p.free_blocks[size].push_back(data);
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
