// Recording on the CPU: see recording.h.
#include "recording.h"

#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "allocator.h"

namespace lathe {
namespace {

/// Idle blocks by size; a request takes the smallest that is large enough and at most twice as large.
class SharedMemory : public RecordedMemory {
 public:
  ~SharedMemory() override {
    for (const auto& [data, bytes] : sizes_) pool_release(data, bytes);
  }

  void* take(int64_t bytes) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = idle_.lower_bound(bytes);
    if (found != idle_.end() && found->first <= 2 * bytes) {
      void* data = found->second;
      idle_.erase(found);
      return data;
    }
    void* data = pool_allocate(bytes);
    sizes_.emplace(data, bytes);
    return data;
  }

  void give_back(void* data) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.emplace(sizes_.at(data), data);
  }

 private:
  std::mutex mutex_;
  std::multimap<int64_t, void*> idle_;
  std::unordered_map<void*, int64_t> sizes_;
};

/// The memory of the recordings alive; a new one where there are none.
std::shared_ptr<RecordedMemory> shared_memory() {
  static auto* mutex = new std::mutex();
  static auto* alive = new std::weak_ptr<RecordedMemory>();
  const std::lock_guard<std::mutex> lock(*mutex);
  std::shared_ptr<RecordedMemory> memory = alive->lock();
  if (!memory) {
    memory = std::make_shared<SharedMemory>();
    *alive = memory;
  }
  return memory;
}

struct Call {
  const char* name;
  std::function<void()> run;
};

class CpuGraph : public Graph {
 public:
  std::vector<Call> calls;
  std::shared_ptr<RecordedMemory> memory = shared_memory();

  void launch() override {
    if (cpu_recording()) throw Error(ErrorCode::invalid_argument, "graphLaunch: ops are being recorded");
    for (const Call& call : calls) {
      try {
        call.run();
      } catch (const Error& error) {
        throw Error(error.code(), std::string(call.name) + ": " + error.what());
      }
    }
  }
};

/// Of this thread: other threads of the process go on running their ops.
std::unique_ptr<CpuGraph>& current() {
  static thread_local std::unique_ptr<CpuGraph> graph;
  return graph;
}

}  // namespace

std::shared_ptr<RecordedMemory> recorded_memory() { return current() ? current()->memory : nullptr; }

bool cpu_recording() { return current() != nullptr; }

void begin_cpu_recording() {
  if (current()) throw Error(ErrorCode::invalid_argument, "ops are being recorded already");
  current() = std::make_unique<CpuGraph>();
}

void record_call(const char* name, std::function<void()> call) { current()->calls.push_back({name, std::move(call)}); }

std::unique_ptr<Graph> end_cpu_recording() {
  if (!current()) throw Error(ErrorCode::invalid_argument, "no ops are being recorded");
  return std::move(current());
}

}  // namespace lathe
