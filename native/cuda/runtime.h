// The CUDA device behind the ops: stream, errors, launches, scratch memory. Every file of this folder includes it;
// it knows no op. How to write a kernel file against it: native/cuda/README.md.
#pragma once
#if defined(LATHE_EMULATION)
#include "emulated_runtime.h"
#else
#include <cuda_runtime.h>
#endif

#include <cstdint>
#include <string>

#include "../core/error.h"
#include "../core/ops.h"

namespace lathe::cuda {

/// Facts that launches are sized by; the device is open when an op runs.
struct Facts {
  int multiprocessors, compute_capability;  // 80, 90, …
  int64_t shared_per_block, l2_bytes;
};
const Facts& facts();

/// The one stream of the process; every kernel and copy goes into it.
cudaStream_t stream();

/// Throws Error for anything but success: out_of_memory, cuda_lost for what only a new process can cure, cuda_error.
/// `what` is the call or kernel, for the message.
void check(cudaError_t result, const char* what);

/// True while ops are recorded into a graph: no synchronous call may be made then.
bool capturing();

/// Device memory for the duration of one op; stream-ordered, so it may be dropped while kernels still use it.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  int64_t bytes_;
};

/// Copies a small table from the host into the stream (pinned staging); not while capturing.
void upload_table(void* to, const void* from, int64_t bytes);

#if defined(LATHE_EMULATION)
template <class... P, class... A>
void launch(const char*, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  emulation::launch({grid.x, grid.y, grid.z}, block.x, shared, [&] { kernel(static_cast<P>(arguments)...); });
}
#elif defined(__CUDACC__)
/// Launches `kernel` on the stream and checks the launch. An empty grid is no launch. Shared memory beyond 48 KiB is
/// asked for first.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  if (shared > 48 * 1024) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), name);
  }
  kernel<<<grid, block, shared, stream()>>>(static_cast<P>(arguments)...);
  check(cudaPeekAtLastError(), name);
}
#endif

static inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Blocks for a grid-stride loop over `items` handled `per_block` at a time: enough to fill the device, no more.
static inline unsigned grid_for(int64_t items, int64_t per_block, int blocks_per_multiprocessor = 8) {
  const int64_t wanted = ceil_div(items, per_block);
  const int64_t most = static_cast<int64_t>(facts().multiprocessors) * blocks_per_multiprocessor;
  return static_cast<unsigned>(wanted < most ? wanted : most);
}

}  // namespace lathe::cuda
