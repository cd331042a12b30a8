// Warp-level building blocks of the matrix kernels: bf16 mma.sync m16n8k16, ldmatrix, cp.async and bf16 packing for
// sm_80 and later, each behind one function. Knows no op. test/native/cuda/emulation.h gives the same functions on a
// CPU (LATHE_EMULATION), so that every kernel built on them is proven as written, without a device.
//
// Fragments, with g = lane / 4 and t = lane % 4 (PTX ISA, mma.m16n8k16): A registers hold the pairs (row g, k 2t),
// (g+8, 2t), (g, 2t+8), (g+8, 2t+8); B registers (k 2t, column g), (2t+8, g); C and D elements (g, 2t), (g, 2t+1),
// (g+8, 2t), (g+8, 2t+1).
#pragma once
#include <cstdint>

#if defined(LATHE_EMULATION)
#include "emulation.h"
#else

/// The dynamic shared memory of the block, 128-byte aligned.
#define LATHE_DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]

namespace lathe::cuda {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Four 8×8 matrices of 16-bit elements; lane l names row l % 8 of matrix l / 8.
__device__ __forceinline__ void load_matrix(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// The same, each matrix transposed.
__device__ __forceinline__ void load_matrix_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// d += a·b.
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Starts a 16-byte copy to shared memory, past L1; zeros when not valid (then `from` is not read).
__device__ __forceinline__ void copy_async16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

/// The same through L1, for what other warps of the block read too.
__device__ __forceinline__ void copy_async16_cached(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

/// Starts a 4-byte copy to shared memory; zero when not valid.
__device__ __forceinline__ void copy_async4(void* to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
}

/// Closes this thread's group of copies.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most kNewest of this thread's groups are under way.
template <int kNewest>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
}

/// Two floats as bf16, round to nearest even; `low` in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ float as_float(uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ uint32_t as_bits(float x) { return __float_as_uint(x); }

/// 2^x, error about 2 ulp, subnormal results 0; 0 for −inf.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Reads past L1: data that other blocks of this launch wrote.
__device__ __forceinline__ float load_global(const float* p) { return __ldcg(p); }

}  // namespace lathe::cuda

#endif  // LATHE_EMULATION

namespace lathe::cuda {

__host__ __device__ constexpr int div_up(int a, int b) { return (a + b - 1) / b; }

__device__ __forceinline__ float bf16_low(uint32_t pair) { return as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) { return as_float(pair & 0xFFFF0000u); }
__device__ __forceinline__ float bf16_value(uint16_t bits) { return as_float(static_cast<uint32_t>(bits) << 16); }
__device__ __forceinline__ uint16_t bf16_bits(float x) { return static_cast<uint16_t>(pack_bf16(x, 0.0f)); }

static constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

/// Sum over the warp in one fixed tree; every lane gets it.
__device__ __forceinline__ float warp_sum(float x) {
  for (int step = 16; step > 0; step >>= 1) x += __shfl_xor_sync(kWholeWarp, x, step);
  return x;
}

/// Sum and maximum over the four lanes that share a fragment's row.
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(kWholeWarp, x, 1);
  return x + __shfl_xor_sync(kWholeWarp, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 1));
  return fmaxf(x, __shfl_xor_sync(kWholeWarp, x, 2));
}

/// A float tensor of either type, element by element.
struct FloatPointer {
  void* data;
  bool half;

  __device__ __forceinline__ float load(int64_t i) const {
    return half ? bf16_value(static_cast<const uint16_t*>(data)[i]) : static_cast<const float*>(data)[i];
  }
  __device__ __forceinline__ void store(int64_t i, float x) const {
    if (half) {
      static_cast<uint16_t*>(data)[i] = bf16_bits(x);
    } else {
      static_cast<float*>(data)[i] = x;
    }
  }
};

}  // namespace lathe::cuda
