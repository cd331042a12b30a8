// A CUDA block on one CPU thread: every thread of the block is a coroutine, barriers and warp collectives switch
// between them, and the mma, ldmatrix and cp.async of native/cuda/mma.h act lane by lane as the PTX ISA lays out
// their fragments. A kernel's own source runs here, so its indexing is proven without a device; its speed is not.
// Unforgiving where hardware is sly: shared memory starts as NaN, copies land only when they are waited for (a missing
// wait reads old data), threads run in rising or falling order (a missing barrier differs), and bank conflicts of
// ldmatrix are counted.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define LATHE_DYNAMIC_SHARED(name) unsigned char* name = ::emulation::shared_memory()

namespace emulation {

struct Dim3 {
  unsigned x = 1, y = 1, z = 1;
};

constexpr int kLanes = 32;
constexpr size_t kStack = 256 << 10;

struct Copy {
  void* to;
  const void* from;
  int bytes;
  bool valid;
};

struct Barrier {
  int arrived = 0, members = 0;
  unsigned generation = 0;
};

struct Warp {
  Barrier barrier;
  uint32_t slots[2][kLanes][8];  // what the lanes bring to a collective; two, so that one barrier is enough
};

struct Thread {
  jmp_buf context;
  ucontext_t start;
  std::unique_ptr<char[]> stack;
  bool started = false, done = false;
  unsigned collectives = 0;
  std::vector<Copy> open;
  std::vector<std::vector<Copy>> groups;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barrier;
  std::vector<unsigned char> shared;
  std::function<void()> body;
  int current = 0;
  bool falling = false;
  jmp_buf home;
};

inline Block* block = nullptr;
inline bool falling_order = false;
inline long bank_conflicts = 0;  // of ldmatrix: rows of one matrix in the same banks

inline unsigned char* shared_memory() {
  auto at = reinterpret_cast<uintptr_t>(block->shared.data());
  return reinterpret_cast<unsigned char*>((at + 127) / 128 * 128);
}

}  // namespace emulation

inline emulation::Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

inline void enter(int next);

/// Runs the next thread that is not done; back to launch() when there is none.
inline void switch_away() {
  const int count = static_cast<int>(block->threads.size());
  int next = block->current;
  for (int i = 0; i < count; i++) {
    next = (next + (block->falling ? count - 1 : 1)) % count;
    if (!block->threads[next].done) return enter(next);
  }
  _longjmp(block->home, 1);
}

inline void yield() {
  if (_setjmp(block->threads[block->current].context) == 0) switch_away();
}

inline void release(Barrier& b) {
  if (b.arrived > 0 && b.arrived >= b.members) {
    b.arrived = 0;
    b.generation++;
  }
}

inline void arrive_and_wait(Barrier& b) {
  const unsigned generation = b.generation;
  b.arrived++;
  release(b);
  while (b.generation == generation) yield();
}

inline void run_thread() {
  block->body();
  Thread& self = block->threads[block->current];
  self.done = true;
  Warp& warp = block->warps[block->current / kLanes];
  warp.barrier.members--;
  block->barrier.members--;
  release(warp.barrier);
  release(block->barrier);
  switch_away();
}

inline void enter(int next) {
  block->current = next;
  threadIdx.x = static_cast<unsigned>(next);
  Thread& thread = block->threads[next];
  if (thread.started) _longjmp(thread.context, 1);
  thread.started = true;
  setcontext(&thread.start);
}

/// Runs `body` for every thread of every block, one block after the other.
inline void launch(Dim3 grid, unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() < threads) stacks.push_back(std::make_unique<char[]>(kStack));
  gridDim = grid;
  blockDim = {threads, 1, 1};
  for (unsigned z = 0; z < grid.z; z++) {
    for (unsigned y = 0; y < grid.y; y++) {
      for (unsigned x = 0; x < grid.x; x++) {
        Block b;
        block = &b;
        blockIdx = {x, y, z};
        b.body = body;
        b.falling = falling_order;
        b.shared.assign(shared_bytes + 128, 0xFF);
        b.threads.resize(threads);
        b.warps.resize((threads + kLanes - 1) / kLanes);
        b.barrier.members = static_cast<int>(threads);
        for (unsigned i = 0; i < threads; i++) {
          b.warps[i / kLanes].barrier.members++;
          getcontext(&b.threads[i].start);
          b.threads[i].start.uc_stack.ss_sp = stacks[i].get();
          b.threads[i].start.uc_stack.ss_size = kStack;
          b.threads[i].start.uc_link = nullptr;
          makecontext(&b.threads[i].start, run_thread, 0);
        }
        if (_setjmp(b.home) == 0) enter(b.falling ? static_cast<int>(threads) - 1 : 0);
        block = nullptr;
      }
    }
  }
}

inline Warp& this_warp() { return block->warps[block->current / kLanes]; }
inline int this_lane() { return block->current % kLanes; }

/// Every lane brings words; returns what all lanes brought. Valid until the collective after the next.
inline uint32_t (*exchange(const uint32_t* words, int count))[8] {
  Warp& warp = this_warp();
  auto* slots = warp.slots[block->threads[block->current].collectives++ & 1];
  std::memcpy(slots[this_lane()], words, count * 4);
  arrive_and_wait(warp.barrier);
  return slots;
}

template <class T>
T shuffle(T x, int from) {
  uint32_t words[2] = {};
  std::memcpy(words, &x, sizeof x);
  auto* all = exchange(words, 2);
  T y;
  std::memcpy(&y, all[from & (kLanes - 1)], sizeof y);
  return y;
}

inline float bf16(uint32_t half) {
  const uint32_t bits = half << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

}  // namespace emulation

inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }
inline void __syncthreads() { emulation::arrive_and_wait(emulation::block->barrier); }
inline void __syncwarp() { emulation::arrive_and_wait(emulation::this_warp().barrier); }
inline void __threadfence() {}

template <class T>
T __shfl_xor_sync(unsigned, T x, int mask) {
  return emulation::shuffle(x, emulation::this_lane() ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T x, int lane) {
  return emulation::shuffle(x, lane);
}
template <class T>
T __shfl_up_sync(unsigned, T x, int delta) {
  const int from = emulation::this_lane() - delta;
  return emulation::shuffle(x, from < 0 ? emulation::this_lane() : from);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  const uint32_t word = vote;
  auto* all = emulation::exchange(&word, 1);
  unsigned votes = 0;
  for (int i = 0; i < emulation::kLanes; i++) votes |= all[i][0] << i;
  return votes;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T, class U>
T atomicAdd(T* at, U value) {
  const T old = *at;
  *at += static_cast<T>(value);
  return old;
}
inline int __ffs(int x) { return __builtin_ffs(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }

#include "emulation_mma.h"
