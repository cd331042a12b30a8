// Packed weights shared out among threads that each read their piece once, as fast as memory gives it. Knows no product.
#pragma once
#include "packed_weight.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {

constexpr int kMostWeights = 3;

/// Up to three weights of one depth in units of `together` panels, numbered through.
struct WeightStream {
  PackedWeight weights[kMostWeights];
  int count;
  int64_t together;
  int64_t tasks;

  WeightStream(const PackedWeight* list, int how_many, int64_t panels_together, int64_t threads)
      : weights{list[0], list[how_many > 1 ? 1 : 0], list[how_many > 2 ? 2 : 0]}, count(how_many),
        together(panels_together), tasks(min(units(), threads * kTasksPerThread)) {}

  int64_t units(int i) const { return (weights[i].panel_count() + together - 1) / together; }
  int64_t units() const {
    int64_t sum = 0;
    for (int i = 0; i < count; i++) sum += units(i);
    return sum;
  }

  /// First unit of a task. Long runs come first (a stream that breaks off has to start again) and short ones last (nobody
  /// waits long at the end): sizes fall evenly.
  int64_t begin_of(int64_t task) const {
    const int64_t left = tasks - task;
    return units() - units() * left * left / (tasks * tasks);
  }

  /// f(weight, unit in it, whether the one after it follows in this task) for the units of a task.
  template <class F>
  void each(int64_t task, const F& f) const {
    const int64_t end = begin_of(task + 1);
    int i = 0;
    for (int64_t u = begin_of(task), passed = 0; u < end; u++) {
      while (u - passed >= units(i)) passed += units(i++);
      f(i, u - passed, u + 1 < end && u + 1 - passed < units(i));
    }
  }

 private:
  static constexpr int64_t kTasksPerThread = 4;
};

/// task(t, worker) for the tasks of a stream, on one thread or on all.
template <class F>
static inline void run_stream(const WeightStream& stream, int64_t threads, const F& task) {
  if (threads == 1) {
    for (int64_t t = 0; t < stream.tasks; t++) task(t, 0);
    return;
  }
  parallel_tasks(stream.tasks, task);
}

}  // namespace lathe::LATHE_ISA
