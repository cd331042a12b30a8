// Pooled, 64-byte aligned memory for tensors and scratch space, with a limit. One pool per process, thread-safe.
// Knows nothing of tensors. Included by per-ISA kernel files: declarations only.
#pragma once
#include <cstdint>

namespace lathe {

struct MemoryStats {
  int64_t in_use, peak, pooled, limit;
};

/// `bytes` of uninitialised memory, aligned to 64 bytes. Throws Error(out_of_memory) beyond the limit.
void* pool_allocate(int64_t bytes);

/// Gives back what pool_allocate(bytes) returned; the block is kept for reuse until pool_trim().
void pool_release(void* data, int64_t bytes);

/// Returns every unused block to the system.
void pool_trim();

/// Limit on used + pooled bytes; 0 = none.
void pool_set_limit(int64_t bytes);

MemoryStats pool_stats();

}  // namespace lathe
