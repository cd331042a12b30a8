// The CUDA runtime's names that the files of native/cuda use outside their kernels, on host memory: so that a whole op
// file, launches and scratch included, runs under emulation.h.
#pragma once
#include "emulation.h"

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct float4 {
  float x, y, z, w;
};
struct uint4 {
  uint32_t x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

using cudaStream_t = void*;
using cudaError_t = int;
constexpr int cudaSuccess = 0;
enum cudaMemcpyKind { cudaMemcpyDeviceToDevice };
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

inline int __syncthreads_or(int vote) {
  static int any = 0;
  __syncthreads();
  any = 0;
  __syncthreads();
  any |= vote;
  __syncthreads();
  return any;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int lanes, int) {
  return __shfl_xor_sync(mask, x, lanes);
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline int32_t __float_as_int(float x) {
  int32_t i;
  std::memcpy(&i, &x, 4);
  return i;
}
inline float __int_as_float(int32_t i) {
  float x;
  std::memcpy(&x, &i, 4);
  return x;
}
using std::fmax;
using std::fmin;
using std::isfinite;
