// Workers spin for a moment between calls (ops of one step follow each other closely) and then sleep.
#include "thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace lathe {
namespace {

constexpr uint32_t kOpen = 1u << 31;
constexpr int kSpins = 2000;       // about 100 µs before a worker sleeps: what the host does between two ops of a step
constexpr int kYieldAfter = 400;   // about 20 µs: then a worker was probably descheduled inside a task, let it run

inline void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { work(i); });
  }

  ~Pool() {
    stop_ = true;
    wake();
    for (std::thread& t : workers_) t.join();
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  void run(int64_t tasks, void (*fn)(void*, int64_t, int), void* context) {
    if (tasks <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < tasks; i++) fn(context, i, 0);
      return;
    }
    fn_ = fn;
    context_ = context;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    // A worker that comes late finds the gate closed and leaves: the caller only waits for those inside.
    gate_.fetch_or(kOpen);
    wake();
    drain(0);
    gate_.fetch_and(~kOpen);
    for (int spins = 0; gate_.load() != 0; spins++) {
      pause_cpu();
      if (spins > kYieldAfter) std::this_thread::yield();
    }
  }

 private:
  void drain(int worker) {
    for (;;) {
      const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
      if (task >= tasks_) return;
      fn_(context_, task, worker);
    }
  }

  void wake() {
    epoch_.fetch_add(1);
    if (sleepers_.load() == 0) return;
    { std::lock_guard<std::mutex> lock(mutex_); }
    condition_.notify_all();
  }

  void work(int worker) {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; epoch_.load() == seen && spins < kSpins; spins++) pause_cpu();
      if (epoch_.load() == seen) {
        std::unique_lock<std::mutex> lock(mutex_);
        sleepers_.fetch_add(1);
        condition_.wait(lock, [&] { return epoch_.load() != seen; });
        sleepers_.fetch_sub(1);
      }
      seen = epoch_.load();
      if (stop_) return;
      if (gate_.fetch_add(1) & kOpen) drain(worker);
      gate_.fetch_sub(1);
    }
  }

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable condition_;
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> gate_{0};  // bit 31: tasks may be taken; below: workers inside
  alignas(64) std::atomic<int64_t> next_{0};
  void (*fn_)(void*, int64_t, int) = nullptr;
  void* context_ = nullptr;
  int64_t tasks_ = 0;
};

/// Leaked on purpose: joining threads while the process exits may hang.
std::unique_ptr<Pool>& holder() {
  static auto* pool = new std::unique_ptr<Pool>();
  return *pool;
}

Pool& instance() {
  if (!holder()) {
    const unsigned cores = std::thread::hardware_concurrency();
    holder() = std::make_unique<Pool>(cores > 0 ? static_cast<int>(cores) : 1);
  }
  return *holder();
}

}  // namespace

void parallel_run(int64_t tasks, void (*fn)(void*, int64_t, int), void* context) {
  instance().run(tasks, fn, context);
}

int thread_count() { return instance().size(); }

void set_thread_count(int threads) {
  if (holder() && threads == holder()->size()) return;
  holder().reset();
  holder() = std::make_unique<Pool>(threads);
}

}  // namespace lathe
