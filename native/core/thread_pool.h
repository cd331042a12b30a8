// One persistent thread pool per process. Included by per-ISA kernel files: declarations only.
#pragma once
#include <cstdint>

namespace lathe {

/// Runs fn(context, task, worker) for task in [0, tasks), the caller taking part as worker 0, and returns when
/// all are done. Which worker takes which task is not fixed: results must not depend on it. fn must not throw and
/// must not call parallel_run. Calls come one at a time (the binding holds a lock).
void parallel_run(int64_t tasks, void (*fn)(void* context, int64_t task, int worker), void* context);

/// Workers including the caller.
int thread_count();

/// Number of threads from the next call on; at least 1.
void set_thread_count(int threads);

}  // namespace lathe
