// The parts of sampling_kernel.h that a whole block does together: reductions, and the search for a cut by histograms.
#pragma once
#include "../core/sampling.h"
#include "mma.h"

namespace lathe::cuda {

using namespace lathe::sampling;

constexpr int kSampleThreads = 512, kSampleWarps = kSampleThreads / 32;
using Counter = unsigned long long;

struct SampleShared {
  Counter counters[kBins];
  Counter sums[kSampleWarps], ties[kSampleWarps];
  int token;
};

/// The largest over the block, for every thread. All threads call it.
__device__ __forceinline__ Counter block_max(Counter x, SampleShared& s) {
  for (int step = 16; step > 0; step >>= 1) {
    const Counter other = __shfl_xor_sync(kWholeWarp, x, step);
    if (other > x) x = other;
  }
  __syncthreads();  // sums may still be read from before
  if (threadIdx.x % 32 == 0) s.sums[threadIdx.x / 32] = x;
  __syncthreads();
  for (int w = 0; w < kSampleWarps; w++) x = s.sums[w] > x ? s.sums[w] : x;
  return x;
}

__device__ __forceinline__ Counter warp_total(Counter x) {
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(kWholeWarp, x, step);
  return x;
}

/// Sum over the block, for every thread.
__device__ __forceinline__ Counter block_total(Counter x, SampleShared& s) {
  x = warp_total(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) s.sums[threadIdx.x / 32] = x;
  __syncthreads();
  Counter total = 0;
  for (int w = 0; w < kSampleWarps; w++) total += s.sums[w];
  return total;
}

/// (key, inverted id): the largest is the best token, ties to the lower id.
__device__ __forceinline__ Counter rank_of(float x, int id) {
  return static_cast<Counter>(key_of(x)) << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int id_of_rank(Counter rank) {
  return static_cast<int>(0xFFFFFFFFu - static_cast<uint32_t>(rank));
}

/// One level of the search into s.counters. Ends in a barrier.
__device__ __forceinline__ void count_level(const float* logits, int vocabulary, const Search& search,
                                            SampleShared& s) {
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kSampleThreads) s.counters[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < vocabulary; i += kSampleThreads) {
    const uint32_t key = key_of(logits[i]);
    if (key <= search.within.key) continue;
    const float depth = depth_of(logits[i], search.peak, search.temperature);
    const int slot = slot_of(search, key, depth);
    if (slot < 0) continue;
    const uint64_t measure = measure_of(search, depth);
    if (measure) atomicAdd(&s.counters[slot], static_cast<Counter>(measure));
  }
  if (threadIdx.x == 0 && search.within.ties > 0) {
    const float depth = depth_of(value_of_key(search.within.key), search.peak, search.temperature);
    const int slot = slot_of(search, search.within.key, depth);
    if (slot >= 0) {
      atomicAdd(&s.counters[slot], static_cast<Counter>(search.within.ties) * measure_of(search, depth));
    }
  }
  __syncthreads();
}

/// The first counter with which the running sum reaches `needed`; `above` gains what lies before it. Every warp finds
/// the same: eight counters a lane.
__device__ __forceinline__ int reach(const Counter* counters, Counter needed, Counter& above, int lane) {
  Counter own = 0;
  for (int i = 0; i < kBins / 32; i++) own += counters[lane * (kBins / 32) + i];
  Counter running = own;
  for (int step = 1; step < 32; step <<= 1) {
    const Counter other = __shfl_up_sync(kWholeWarp, running, step);
    if (lane >= step) running += other;
  }
  const int owner = __ffs(static_cast<int>(__ballot_sync(kWholeWarp, above + running >= needed))) - 1;
  Counter before = above + running - own;
  int slot = lane * (kBins / 32);
  for (int i = 0; i < kBins / 32 - 1 && lane == owner; i++) {
    if (before + counters[slot] >= needed) break;
    before += counters[slot++];
  }
  above = __shfl_sync(kWholeWarp, before, owner);
  return __shfl_sync(kWholeWarp, slot, owner);
}

/// The cut that reaches `needed`; `kept` becomes its measure.
__device__ __forceinline__ Cut find_cut(const float* logits, int vocabulary, Search search, Counter needed,
                                        Counter& kept, SampleShared& s) {
  Counter above = 0;
  while (search.shift >= 0) {
    count_level(logits, vocabulary, search, s);
    descend(search, reach(s.counters, needed, above, threadIdx.x % 32));
  }
  const Counter each = measure_of_key(search, search.prefix), ties = (needed - above + each - 1) / each;
  kept = above + ties * each;
  return {search.prefix, static_cast<int64_t>(ties)};
}

}  // namespace lathe::cuda
