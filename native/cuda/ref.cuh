// Reading and writing tensors that may be f32 or bf16, eight elements (16 or 32 bytes) at a time.
// Arithmetic is f32 everywhere; bf16 is rounded to nearest even on store.
#pragma once
#include <cstdint>

#include "../core/tensor.h"
#include "mma.h"
#include "runtime.h"

namespace lathe::cuda {

/// A float tensor of either type; the type is uniform over a launch, so the branch costs nothing beside the access.
struct Ref {
  char* data;
  int half;  // 1: bf16

  Ref() = default;
  __host__ explicit Ref(const Tensor& t) : data(static_cast<char*>(t.data)), half(t.dtype == DType::bf16) {}
  __host__ Ref(void* p, bool is_half) : data(static_cast<char*>(p)), half(is_half) {}
  __host__ __device__ Ref at(int64_t element) const {
    Ref r;
    r.data = data + (element << (half ? 1 : 2));
    r.half = half;
    return r;
  }
};

__device__ __forceinline__ float load1(const Ref& r, int64_t i) {
  if (r.half) return bf16_value(reinterpret_cast<const uint16_t*>(r.data)[i]);
  return reinterpret_cast<const float*>(r.data)[i];
}

__device__ __forceinline__ void store1(const Ref& r, int64_t i, float v) {
  if (r.half) {
    reinterpret_cast<uint16_t*>(r.data)[i] = bf16_bits(v);
  } else {
    reinterpret_cast<float*>(r.data)[i] = v;
  }
}

/// Elements i…i+7; i a multiple of 8 and the base 16-byte aligned.
__device__ __forceinline__ void load8(const Ref& r, int64_t i, float (&v)[8]) {
  if (r.half) {
    const uint4 q = *reinterpret_cast<const uint4*>(r.data + i * 2);
    const uint32_t words[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      v[2 * j] = bf16_low(words[j]);
      v[2 * j + 1] = bf16_high(words[j]);
    }
  } else {
    const float4 a = *reinterpret_cast<const float4*>(r.data + i * 4);
    const float4 b = *reinterpret_cast<const float4*>(r.data + i * 4 + 16);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
    v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  }
}

__device__ __forceinline__ void store8(const Ref& r, int64_t i, const float (&v)[8]) {
  if (r.half) {
    *reinterpret_cast<uint4*>(r.data + i * 2) =
        make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
  } else {
    *reinterpret_cast<float4*>(r.data + i * 4) = make_float4(v[0], v[1], v[2], v[3]);
    *reinterpret_cast<float4*>(r.data + i * 4 + 16) = make_float4(v[4], v[5], v[6], v[7]);
  }
}

/// N elements at i: N = 8 as load8, N = 1 for rows whose width or base does not allow it.
template <int N>
__device__ __forceinline__ void load(const Ref& r, int64_t i, float (&v)[N]) {
  if constexpr (N == 8) {
    load8(r, i, v);
  } else {
    v[0] = load1(r, i);
  }
}

template <int N>
__device__ __forceinline__ void store(const Ref& r, int64_t i, const float (&v)[N]) {
  if constexpr (N == 8) {
    store8(r, i, v);
  } else {
    store1(r, i, v[0]);
  }
}

/// What bf16 keeps of v, for a value that is used again after it was stored.
__device__ __forceinline__ float rounded(const Ref& r, float v) {
  return r.half ? bf16_value(bf16_bits(v)) : v;
}

/// Whether rows of `columns` elements of all these tensors can be read eight at a time.
template <class... T>
inline bool rows_of_eight(int64_t columns, const T&... tensors) {
  return columns % 8 == 0 && ((reinterpret_cast<uintptr_t>(tensors.data) % 16 == 0) && ...);
}

// ---- sums over a warp and a block, in one fixed order ----

__device__ __forceinline__ double warp_sum(double v) {
#pragma unroll
  for (int o = 16; o > 0; o >>= 1) v += __shfl_xor_sync(0xFFFFFFFFu, v, o);
  return v;
}

/// Sum over the block, for every thread; all threads call it. `shared`: one T per warp, free again on return.
template <class T>
__device__ __forceinline__ T block_sum(T v, T* shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = (blockDim.x + 31) >> 5;
  v = warp_sum(v);
  if (lane == 0) shared[warp] = v;
  __syncthreads();
  T total = shared[0];
  for (int i = 1; i < warps; i++) total += shared[i];
  __syncthreads();
  return total;
}

}  // namespace lathe::cuda
