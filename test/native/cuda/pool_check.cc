// The device's memory pool and the host's copies of index tensors, on host addresses: blocks never overlap, everything joins again, recordings keep their blocks,
// limits and exhaustion end in an error with the numbers.
#include "../../../native/cuda/memory.h"

#include <map>

#include "../../../native/core/error.h"
#include "../../../native/core/host_copy.h"
#include "reference.h"

using lathe::cuda::BlockPool;
using namespace reference;

namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

/// Addresses without memory behind them: the pool never touches its blocks.
struct Driver {
  int64_t free, next = kMiB;
  std::map<int64_t, int64_t> chunks;
  int calls = 0;

  lathe::cuda::RawMemory raw() {
    return {[this](int64_t bytes) -> void* {
              calls++;
              if (bytes > free) return nullptr;
              free -= bytes;
              const int64_t at = next;
              next += bytes + kMiB;
              chunks[at] = bytes;
              return reinterpret_cast<void*>(at);
            },
            [this](void* data) {
              const auto found = chunks.find(reinterpret_cast<int64_t>(data));
              free += found->second;
              chunks.erase(found);
            },
            [this] { return std::to_string(free) + " free"; }};
  }
};

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const lathe::Error& e) {
    return e.code() == lathe::ErrorCode::out_of_memory ? e.what() : "another error";
  }
  return "";
}

bool inside(const Driver& driver, int64_t at, int64_t bytes) {
  for (const auto& [base, size] : driver.chunks) {
    if (at >= base && at + bytes <= base + size) return true;
  }
  return false;
}

void random_use() {
  Driver driver = {int64_t{4096} * kMiB};
  BlockPool pool(driver.raw());
  std::map<int64_t, int64_t> live;
  bool apart = true, aligned = true, held = true;
  for (int i = 0; i < 20000; i++) {
    if (live.empty() || uniform() < 0.55) {
      const int64_t bytes = static_cast<int64_t>(std::exp(uniform() * 13));
      const auto at = reinterpret_cast<int64_t>(pool.allocate(bytes));
      aligned &= at % 256 == 0;
      held &= inside(driver, at, bytes);
      const auto next = live.lower_bound(at);
      if (next != live.end()) apart &= at + bytes <= next->first;
      if (next != live.begin()) apart &= std::prev(next)->first + std::prev(next)->second <= at;
      live[at] = bytes;
    } else {
      auto victim = live.begin();
      std::advance(victim, integer(0, static_cast<int>(std::min<size_t>(live.size(), 50)) - 1));
      pool.release(reinterpret_cast<void*>(victim->first));
      live.erase(victim);
    }
  }
  expect("blocks never overlap", apart);
  expect("blocks are aligned and inside their chunk", aligned && held);
  for (const auto& [at, bytes] : live) pool.release(reinterpret_cast<void*>(at));
  expect("nothing is in use at the end", pool.stats().in_use == 0 && pool.stats().peak > 0);
  pool.trim();
  expect("everything joined again and went back", driver.chunks.empty() && pool.stats().pooled == 0);
}

void steady_state() {
  Driver driver = {int64_t{1024} * kMiB};
  BlockPool pool(driver.raw());
  pool.reserve(256 * kMiB);
  const int calls = driver.calls;
  std::vector<void*> first;
  for (int step = 0; step < 3; step++) {
    std::vector<void*> blocks;
    for (int i = 0; i < 40; i++) blocks.push_back(pool.allocate((i % 7 + 1) * kMiB));
    if (step == 0) first = blocks;
    expect("a step's blocks lie where they lay before", blocks == first);
    for (void* block : blocks) pool.release(block);
  }
  expect("a reserved arena asks the driver for nothing more", driver.calls == calls);
}

void recordings() {
  Driver driver = {int64_t{1024} * kMiB};
  BlockPool pool(driver.raw());
  void* before = pool.allocate(kMiB);
  pool.begin_recording();
  void* kept = pool.allocate(3 * kMiB);
  void* temporary = pool.allocate(2 * kMiB);
  pool.release(temporary);
  expect("a recording reuses what it gave back", pool.allocate(2 * kMiB) == temporary);
  pool.release(temporary);
  pool.release(before);
  pool.end_recording();
  expect("what a graph keeps is in use", pool.stats().in_use == 5 * kMiB);
  bool untouched = true;
  const auto span = [](void* p) { return reinterpret_cast<int64_t>(p); };
  for (int i = 0; i < 64; i++) {
    const int64_t other = span(pool.allocate(2 * kMiB));
    for (const auto& [mine, bytes] : {std::pair{span(kept), 3 * kMiB}, std::pair{span(temporary), 2 * kMiB}}) {
      untouched &= other + 2 * kMiB <= mine || other >= mine + bytes;
    }
  }
  expect("others never get a graph's blocks", untouched);
  pool.release(kept);
  expect("also not those released after the recording", pool.allocate(3 * kMiB) != kept);
  const int64_t in_use = pool.stats().in_use;
  pool.begin_recording();
  std::vector<void*> pieces;
  for (int i = 0; i < 5; i++) pieces.push_back(pool.allocate(kMiB));
  expect("a later recording works in the same memory, cut anew", pool.stats().in_use == in_use);
  for (void* piece : pieces) pool.release(piece);
  pieces.push_back(pool.allocate(5 * kMiB));
  expect("joined again too", pool.stats().in_use == in_use);
  pool.release(pieces.back());
  pool.end_recording();
  pool.drop_recording();
  expect("it stays the graphs' while one lives", pool.stats().in_use == in_use);
  pool.drop_recording();
  expect("graphs that are gone give their blocks back", pool.stats().in_use == in_use - 5 * kMiB);
  bool back = false;
  for (int i = 0; i < 64; i++) {
    const int64_t at = span(pool.allocate(kMiB));
    back |= at >= span(kept) && at < span(kept) + 3 * kMiB;
  }
  expect("to everybody", back);
}

/// Eager work and recordings of many sizes in turns, as a training run makes them.
void random_recordings() {
  Driver driver = {int64_t{4096} * kMiB};
  BlockPool pool(driver.raw());
  std::map<int64_t, int64_t> live, graphs;  // of eager work, and everything that a recording has touched
  int recordings = 0;
  bool apart = true;
  const auto overlaps = [](const std::map<int64_t, int64_t>& blocks, int64_t at, int64_t bytes) {
    auto next = blocks.lower_bound(at);
    if (next != blocks.end() && at + bytes > next->first) return true;
    return next != blocks.begin() && std::prev(next)->first + std::prev(next)->second > at;
  };
  for (int round = 0; round < 400; round++) {
    const bool recorded = uniform() < 0.3;
    if (recorded) pool.begin_recording(), recordings++;
    std::map<int64_t, int64_t> mine;
    for (int i = 0; i < 20; i++) {
      const int64_t bytes = static_cast<int64_t>(std::exp(uniform() * 14));
      const auto at = reinterpret_cast<int64_t>(pool.allocate(bytes));
      apart &= !overlaps(live, at, bytes) && !overlaps(mine, at, bytes) && (recorded || !overlaps(graphs, at, bytes));
      if (!recorded && uniform() < 0.05) live[at] = bytes;
      else mine[at] = bytes;
      if (!mine.empty() && uniform() < 0.3) {
        pool.release(reinterpret_cast<void*>(mine.begin()->first));
        if (recorded && !overlaps(graphs, mine.begin()->first, mine.begin()->second)) graphs.insert(*mine.begin());
        mine.erase(mine.begin());
      }
    }
    for (const auto& [at, bytes] : mine) {
      pool.release(reinterpret_cast<void*>(at));
      if (recorded && !overlaps(graphs, at, bytes)) graphs[at] = bytes;
    }
    if (recorded) pool.end_recording();
    if (recordings > 0 && uniform() < 0.02) {
      for (; recordings > 0; recordings--) pool.drop_recording();
      graphs.clear();
    }
  }
  expect("eager blocks and graphs never share memory", apart);
  for (; recordings > 0; recordings--) pool.drop_recording();
  for (const auto& [at, bytes] : live) pool.release(reinterpret_cast<void*>(at));
  expect("nothing is in use when all graphs are gone", pool.stats().in_use == 0);
  pool.trim();
  expect("and everything goes back", driver.chunks.empty());
}

void exhaustion() {
  Driver driver = {100 * kMiB};
  BlockPool pool(driver.raw());
  void* first = pool.allocate(90 * kMiB);
  const std::string message = error_of([&] { pool.allocate(20 * kMiB); });
  expect("out of memory names what was asked, in use and free: " + message,
         message.find("20971520 bytes") != std::string::npos && message.find("94371840 in use") != std::string::npos &&
             message.find("free") != std::string::npos);
  pool.release(first);
  expect("a chunk that nobody uses is given back for another size", pool.allocate(95 * kMiB) != nullptr);
  expect("a negative size is refused", !error_of([&] { pool.allocate(-1); }).empty());

  Driver roomy = {int64_t{1024} * kMiB};
  BlockPool limited(roomy.raw());
  limited.set_limit(64 * kMiB);
  limited.allocate(40 * kMiB);
  expect("the limit holds", error_of([&] { limited.allocate(40 * kMiB); }).find("limit 67108864") != std::string::npos);
  expect("so it does for an arena", !error_of([&] { limited.reserve(128 * kMiB); }).empty());
}

/// What checks of index tensors read instead of the device.
void host_copy() {
  lathe::HostCopy copy;
  copy.base = reinterpret_cast<const char*>(int64_t{1 << 20});
  const int32_t values[4] = {1, 2, 3, 4};
  expect("nothing is known before the host writes", copy.find(copy.base, 4) == nullptr);
  copy.note(copy.base + 4, values, 8);
  expect("a write behind a gap does not count", copy.find(copy.base + 4, 8) == nullptr);
  copy.note(copy.base, values, 8);
  copy.note(copy.base + 8, values + 2, 8);
  const char* all = copy.find(copy.base, 16);
  expect("writes that join are one", all && std::memcmp(all, values, 16) == 0);
  copy.note(copy.base + 4, values, 4);
  const char* part = copy.find(copy.base + 4, 4);
  expect("a later write replaces its part", part && *reinterpret_cast<const int32_t*>(part) == 1);
  expect("what lies behind is not known", copy.find(copy.base + 12, 8) == nullptr);
  lathe::Tensor t = {};
  t.host = &copy;
  lathe::forget_host_copy(t);
  expect("a kernel's write makes it unknown", copy.find(copy.base, 4) == nullptr);
  copy.note(copy.base + 16, values, 4);
  expect("and only a write from the start makes it known again", copy.find(copy.base + 16, 4) == nullptr);
  copy.note(copy.base, values, 16);
  expect("as this one", copy.find(copy.base, 16) != nullptr);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  random_use();
  steady_state();
  recordings();
  random_recordings();
  exhaustion();
  host_copy();
  return failures != 0;
}
