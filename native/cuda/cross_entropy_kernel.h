// Softmax, loss, first argmax and gradient of one row of f32 logits per block: one pass for an online maximum and sum
// (Milakov & Gimelshein, arXiv:1805.02867), one that writes the gradient, as bf16 or in place as f32. The second pass
// finds most of the row in L2. 512 threads, no shared memory to speak of: bound by bytes, four rows an SM.
// Floor aimed at: 85 % of the copy bandwidth on 10 bytes a logit.
#pragma once
#include "mma.h"

namespace lathe::cuda {

constexpr int kLossThreads = 512;

struct LossArguments {
  const float* logits;  // [rows, vocabulary]
  void* gradient;       // the same shape, or null; may be the logits when f32
  float* losses;
  int* correct;
  const int* targets;
  const float* row_scale;  // or null
  int64_t vocabulary;
  float scale;
};

/// Maximum, sum of e^(x − maximum), and the lowest index of the maximum, of a part of a row.
struct RowPart {
  float maximum, sum;
  int index;

  __device__ __forceinline__ void add(float x, int i) {
    if (x > maximum) {
      sum = sum * __expf(maximum - x) + 1.0f;  // e^−inf = 0 for the first
      maximum = x;
      index = i;
    } else {
      sum += x == -INFINITY ? 0.0f : __expf(x - maximum);
    }
  }
  __device__ __forceinline__ void merge(const RowPart& other) {
    const float best = fmaxf(maximum, other.maximum);
    const float mine = maximum == best ? 1.0f : __expf(maximum - best);
    const float theirs = other.maximum == best ? 1.0f : __expf(other.maximum - best);
    sum = sum * mine + other.sum * theirs;
    if (other.maximum > maximum || (other.maximum == maximum && other.index < index)) index = other.index;
    maximum = best;
  }
};

/// The part of the whole row, for every thread; `shared` holds one part per warp.
__device__ __forceinline__ RowPart merge_block(RowPart part, RowPart* shared, int thread) {
  for (int step = 16; step > 0; step >>= 1) {
    const RowPart other = {__shfl_xor_sync(kWholeWarp, part.maximum, step), __shfl_xor_sync(kWholeWarp, part.sum, step),
                           __shfl_xor_sync(kWholeWarp, part.index, step)};
    part.merge(other);
  }
  if ((thread & 31) == 0) shared[thread >> 5] = part;
  __syncthreads();
  RowPart all = shared[0];
  for (int w = 1; w < kLossThreads / 32; w++) all.merge(shared[w]);
  return all;
}

struct alignas(16) FourFloats {
  float at[4];
};
struct alignas(8) FourHalves {
  uint32_t pairs[2];
};

/// kFour: rows may be read four logits at a time. kHalf: the gradient is bf16. Grid: rows.
template <bool kFour, bool kHalf>
__global__ void __launch_bounds__(kLossThreads) cross_entropy_kernel(const LossArguments a) {
  __shared__ RowPart parts[kLossThreads / 32];
  const int thread = threadIdx.x, vocabulary = static_cast<int>(a.vocabulary);
  const int64_t row = blockIdx.x;
  const float* logits = a.logits + row * a.vocabulary;
  const int target = a.targets[row];
  RowPart part = {-INFINITY, 0.0f, 0x7FFFFFFF};
  if (kFour) {
    for (int i = thread * 4; i < vocabulary; i += kLossThreads * 4) {
      const FourFloats x = *reinterpret_cast<const FourFloats*>(logits + i);
#pragma unroll
      for (int j = 0; j < 4; j++) part.add(x.at[j], i + j);
    }
  } else {
    for (int i = thread; i < vocabulary; i += kLossThreads) part.add(logits[i], i);
  }
  const float at_target = logits[target];  // before anything is overwritten: merge_block has a barrier
  part = merge_block(part, parts, thread);
  if (thread == 0) {
    a.losses[row] = part.maximum + logf(part.sum) - at_target;
    a.correct[row] = part.index == target;
  }
  if (!a.gradient) return;
  const float scale = a.row_scale ? a.scale * a.row_scale[row] : a.scale, factor = scale / part.sum;
  const auto slope = [&](float x, int i) {
    const float e = __expf(x - part.maximum);
    return i == target ? (e / part.sum - 1.0f) * scale : e * factor;
  };
  float* floats = static_cast<float*>(a.gradient) + row * a.vocabulary;
  uint16_t* halves = static_cast<uint16_t*>(a.gradient) + row * a.vocabulary;
  if (kFour) {
    for (int i = thread * 4; i < vocabulary; i += kLossThreads * 4) {
      const FourFloats x = *reinterpret_cast<const FourFloats*>(logits + i);
      const FourFloats g = {{slope(x.at[0], i), slope(x.at[1], i + 1), slope(x.at[2], i + 2), slope(x.at[3], i + 3)}};
      if (kHalf) {
        const FourHalves h = {{pack_bf16(g.at[0], g.at[1]), pack_bf16(g.at[2], g.at[3])}};
        *reinterpret_cast<FourHalves*>(halves + i) = h;
      } else {
        *reinterpret_cast<FourFloats*>(floats + i) = g;
      }
    }
  } else {
    for (int i = thread; i < vocabulary; i += kLossThreads) {
      const float g = slope(logits[i], i);
      if (kHalf) halves[i] = bf16_bits(g);
      else floats[i] = g;
    }
  }
}

}  // namespace lathe::cuda
