// Splitting work into tasks of fixed size (never by thread count: results must not depend on it), and scratch memory.
#pragma once
#include "../core/allocator.h"
#include "../core/thread_pool.h"
#include "simd.h"

namespace lathe::LATHE_ISA {

/// f(task, worker) for every task, on all threads.
template <class F>
static inline void parallel_tasks(int64_t tasks, const F& f) {
  parallel_run(
      tasks, [](void* context, int64_t task, int worker) { (*static_cast<const F*>(context))(task, worker); },
      const_cast<F*>(&f));
}

/// f(begin, end) over [0, n) in pieces of `grain`.
template <class F>
static inline void parallel_ranges(int64_t n, int64_t grain, const F& f) {
  parallel_tasks((n + grain - 1) / grain,
                 [&](int64_t task, int) { f(task * grain, min(n, (task + 1) * grain)); });
}

/// Rows per task so that a task touches about 16 K elements.
static inline int64_t rows_per_task(int64_t columns) { return max(1, 16384 / max(1, columns)); }

/// Elements per task of elementwise loops; a multiple of every vector width.
constexpr int64_t kElementGrain = 16384;

/// The same where decoding calls with a few rows and each element costs several instructions: 2 to 6 µs of work.
constexpr int64_t kFineGrain = 4096;
static inline int64_t fine_rows_per_task(int64_t columns) { return max(1, kFineGrain / max(1, columns)); }

/// Uninitialised memory for the duration of an op.
class Scratch {
 public:
  explicit Scratch(int64_t bytes) : data_(pool_allocate(bytes)), bytes_(bytes) {}
  ~Scratch() { pool_release(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  float* floats() const { return static_cast<float*>(data_); }
  char* bytes() const { return static_cast<char*>(data_); }

 private:
  void* data_;
  int64_t bytes_;
};

}  // namespace lathe::LATHE_ISA
