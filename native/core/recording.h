// Recording on the CPU: between begin and end the ops that this thread asks for are kept with their arguments instead of
// run, and a graph runs them all in one call. Knows neither JavaScript nor what an op does.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "backend.h"

namespace lathe {

/// Memory of tensors made while ops are recorded. All recordings alive in the process share its blocks, one after the
/// other: a block serves requests of its size down to half of it. It goes back to the pool with the last of them.
class RecordedMemory {
 public:
  virtual ~RecordedMemory() = default;
  /// Uninitialised, aligned as pool_allocate's. Throws Error(out_of_memory).
  virtual void* take(int64_t bytes) = 0;
  /// Makes the block free for what is asked for next.
  virtual void give_back(void* data) = 0;
};

/// The memory for tensors made now; null where this thread records nothing.
std::shared_ptr<RecordedMemory> recorded_memory();

/// Whether this thread records.
bool cpu_recording();

/// Throws Error(invalid_argument) when this thread records already.
void begin_cpu_recording();

/// Appends a call; `name` is what its errors begin with. Only while recording.
void record_call(const char* name, std::function<void()> call);

/// Ends the recording; launch() runs its calls in order and stops at the first that throws.
std::unique_ptr<Graph> end_cpu_recording();

}  // namespace lathe
