// sampleTokens, one block of 512 threads per row: adjust and find the peak in one pass; a search of at most ten passes
// for topK and topP (histograms of integer counts or masses in shared memory, so the order of the atomics does not
// show); one pass that sums each warp's stretch of the row and one warp that walks the stretch in which the draw
// falls. A row of logits stays in L2 between the passes. 4 KiB shared, no spills; not bound by device memory: at
// 150 k logits a pass takes about what one multiprocessor needs to read 0.6 MB from L2, some 6 µs.
#pragma once
#include "sampling_search.h"

namespace lathe::cuda {

struct SampleArguments {
  int* tokens;
  float* logprobs;      // [rows, 1 + wanted] or null
  int* top_tokens;      // [rows, wanted]
  float* logits;        // [rows, columns]
  const float* floats;
  const int* ints;
  const int *bias_offsets, *bias_tokens;  // or null
  const float* bias_values;
  int* counts;          // [.., columns] or null
  const int* mask;      // [.., mask_words] or null
  int columns, vocabulary, wanted, mask_words;
};

/// Mask, penalties and bias in place. Ends in a barrier.
__device__ __forceinline__ void adjust_row(const SampleArguments& a, float* logits, const float* floats,
                                           const int* counts, const int* mask, int row) {
  for (int i = threadIdx.x; i < a.vocabulary && (mask || counts); i += kSampleThreads) {
    float x = logits[i];
    const bool allowed = !mask || (static_cast<uint32_t>(mask[i / 32]) >> (i % 32) & 1u);
    if (!allowed && x < INFINITY) x = -INFINITY;  // NaN and +inf stay and show
    if (counts && counts[i] > 0) {
      x = exact_add(x, -exact_add(exact_mul(static_cast<float>(counts[i]), floats[kFrequency]), floats[kPresence]));
    }
    logits[i] = x;
  }
  __syncthreads();
  if (!a.bias_offsets) return;
  for (int j = a.bias_offsets[row] + threadIdx.x; j < a.bias_offsets[row + 1]; j += kSampleThreads) {
    float& x = logits[a.bias_tokens[j]];
    x = exact_add(x, a.bias_values[j]);
  }
  __syncthreads();
}

/// The first token, by id, at which the running mass of the cut exceeds `target`.
__device__ __forceinline__ int walk(const float* logits, int vocabulary, const Cut& cut, float peak, float temperature,
                                    Counter target, SampleShared& s) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int stretch = div_up(div_up(vocabulary, kSampleWarps), 32) * 32;
  const int begin = warp * stretch, end = min(vocabulary, begin + stretch);
  Counter mass = 0, ties = 0;
  for (int i = begin + lane; i < end; i += 32) {
    const uint32_t key = key_of(logits[i]);
    if (key > cut.key) mass += mass_of(depth_of(logits[i], peak, temperature));
    else if (key == cut.key) ties++;
  }
  mass = warp_total(mass);
  ties = warp_total(ties);
  __syncthreads();
  if (lane == 0) {
    s.sums[warp] = mass;
    s.ties[warp] = ties;
  }
  __syncthreads();
  const Counter each = cut.ties > 0 ? mass_of(depth_of(value_of_key(cut.key), peak, temperature)) : 0;
  Counter running = 0, left = static_cast<Counter>(cut.ties);
  for (int w = 0; w < warp; w++) {
    const Counter taken = s.ties[w] < left ? s.ties[w] : left;
    running += s.sums[w] + taken * each;
    left -= taken;
  }
  const Counter taken = ties < left ? ties : left;
  const bool mine = running <= target && target < running + mass + taken * each;  // the same for the whole warp
  for (int base = begin; mine && base < end; base += 32) {
    const int i = base + lane;
    const uint32_t key = i < end ? key_of(logits[i]) : 0;
    const unsigned tied = __ballot_sync(kWholeWarp, i < end && cut.ties > 0 && key == cut.key);
    const bool in_cut = i < end && (key > cut.key || ((tied >> lane & 1u) &&
                                                      static_cast<Counter>(__popc(tied & ((1u << lane) - 1))) < left));
    const Counter own = in_cut ? mass_of(depth_of(logits[i], peak, temperature)) : 0;
    Counter sum = own;
    for (int step = 1; step < 32; step <<= 1) {
      const Counter other = __shfl_up_sync(kWholeWarp, sum, step);
      if (lane >= step) sum += other;
    }
    const unsigned past = __ballot_sync(kWholeWarp, running + sum > target);
    if (past) {
      if (lane == 0) s.token = base + __ffs(static_cast<int>(past)) - 1;
      break;
    }
    running += __shfl_sync(kWholeWarp, sum, 31);
    const Counter seen = static_cast<Counter>(__popc(tied));
    left -= seen < left ? seen : left;
  }
  __syncthreads();
  return s.token;
}

__device__ __forceinline__ int draw_token(const float* logits, int vocabulary, const float* floats, const int* ints,
                                          float peak, SampleShared& s) {
  const float temperature = floats[kTemperature], top_p = floats[kTopP];
  Cut cut = whole();
  Counter total = 0;
  if (ints[kTopK] > 0 && ints[kTopK] < vocabulary) {
    const Search search = begin_search(false, peak, temperature, cut);
    cut = find_cut(logits, vocabulary, search, static_cast<Counter>(ints[kTopK]), total, s);
  }
  const Search search = begin_search(true, peak, temperature, cut);
  count_level(logits, vocabulary, search, s);
  total = 0;
  for (int i = 0; i < kBins; i++) total += s.counters[i];
  if (top_p < 1) cut = find_cut(logits, vocabulary, search, needed_mass(top_p, total), total, s);
  return walk(logits, vocabulary, cut, peak, temperature, draw_target(uniform53(ints), total), s);
}

/// Log-probabilities of the token and of the best ones.
__device__ __forceinline__ void report_row(const SampleArguments& a, const float* logits, float peak, int token,
                                           int row, SampleShared& s) {
  Counter mass = 0;
  for (int i = threadIdx.x; i < a.vocabulary; i += kSampleThreads) mass += mass_of(depth_of(logits[i], peak, 1.0f));
  const Counter total = block_total(mass, s);
  const float log_sum = logf(static_cast<float>(static_cast<double>(total) / 1099511627776.0));
  float* to = a.logprobs + static_cast<int64_t>(row) * (a.wanted + 1);
  if (threadIdx.x == 0) to[0] = logits[token] - peak - log_sum;
  Counter last = ~0ull;
  for (int j = 0; j < a.wanted; j++) {
    Counter best = 0;
    for (int i = threadIdx.x; i < a.vocabulary; i += kSampleThreads) {
      const Counter rank = rank_of(logits[i], i);
      if (rank < last && rank > best) best = rank;
    }
    last = block_max(best, s);
    if (threadIdx.x != 0) continue;
    a.top_tokens[static_cast<int64_t>(row) * a.wanted + j] = id_of_rank(last);
    to[1 + j] = logits[id_of_rank(last)] - peak - log_sum;
  }
}

/// Grid: rows.
static __global__ void __launch_bounds__(kSampleThreads, 2) sample_tokens_kernel(const SampleArguments a) {
  __shared__ SampleShared s;
  const int row = blockIdx.x, thread = threadIdx.x;
  float* logits = a.logits + static_cast<int64_t>(row) * a.columns;
  const float* floats = a.floats + row * kFloatColumns;
  const int* ints = a.ints + row * kIntColumns;
  int* counts = a.counts && ints[kCountsRow] >= 0 ? a.counts + static_cast<int64_t>(ints[kCountsRow]) * a.columns
                                                  : nullptr;
  const int* mask = a.mask && ints[kMaskRow] >= 0 ? a.mask + static_cast<int64_t>(ints[kMaskRow]) * a.mask_words
                                                  : nullptr;
  adjust_row(a, logits, floats, counts, mask, row);
  Counter best = 0;
  for (int i = thread; i < a.vocabulary; i += kSampleThreads) {
    const Counter rank = logits[i] != logits[i] ? ~0ull : rank_of(logits[i], i);  // NaN above everything
    if (rank > best) best = rank;
  }
  best = block_max(best, s);
  const int peak_id = id_of_rank(best);
  const float peak = best == ~0ull ? 0.0f : logits[peak_id];
  if (best == ~0ull || peak - peak != 0.0f) {
    if (thread == 0) a.tokens[row] = mask && peak == -INFINITY ? -2 : -1;
    for (int j = thread; a.logprobs && j <= a.wanted; j += kSampleThreads) {
      a.logprobs[static_cast<int64_t>(row) * (a.wanted + 1) + j] = as_float(0x7FC00000u);
      if (j > 0) a.top_tokens[static_cast<int64_t>(row) * a.wanted + j - 1] = -1;
    }
    return;
  }
  const bool greedy = !(floats[kTemperature] > 0.0f && floats[kTopP] > 0.0f);
  const int token = greedy ? peak_id : draw_token(logits, a.vocabulary, floats, ints, peak, s);
  if (thread == 0) {
    a.tokens[row] = token;
    if (counts) counts[token]++;
  }
  if (a.logprobs) report_row(a, logits, peak, token, row, s);
}

}  // namespace lathe::cuda
