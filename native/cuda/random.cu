// Dropout and random fills: Philox words of consecutive elements, four per block, the same words as on the CPU. The
// arithmetic after them repeats the CPU's (cpu/vector_math.h) operation by operation, rounding included, so a fill has
// the bytes that a CPU with fused multiply-add gives.
#include "../core/philox.h"
#include "parts.h"
#include "ref.cuh"
#include "runtime.h"

namespace lathe::cuda {
namespace {

constexpr int kThreads = 256;

struct Words {
  uint32_t w[4];
};

/// Block `index` of the stream: core/philox.h.
__device__ __forceinline__ Words philox(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = static_cast<uint32_t>(index), c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream), c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < kPhiloxRounds; round++) {
    const uint32_t high0 = __umulhi(kPhiloxMul0, c0), low0 = kPhiloxMul0 * c0;
    const uint32_t high1 = __umulhi(kPhiloxMul1, c2), low1 = kPhiloxMul1 * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += kPhiloxKey0;
    k1 += kPhiloxKey1;
  }
  return {{c0, c1, c2, c3}};
}

/// 24 random bits as a float in [0,1).
__device__ __forceinline__ float unit(uint32_t word) {
  return __fmul_rn(static_cast<float>(word >> 8), 5.9604644775390625e-8f);
}

__device__ __forceinline__ float mul(float a, float b) { return __fmul_rn(a, b); }
__device__ __forceinline__ float sum(float a, float b) { return __fadd_rn(a, b); }

/// vlog of cpu/vector_math.h.
__device__ __forceinline__ float log_like_cpu(float x) {
  const int32_t bits = __float_as_int(x);
  const int32_t e = (bits - 0x3F3504F3) >> 23;
  const float m = __int_as_float(bits - (e << 23));
  const float s = __fdiv_rn(sum(m, -1.0f), sum(m, 1.0f));
  const float s2 = mul(s, s);
  float p = fmaf(s2, 2.0f / 9, 2.0f / 7);
  p = fmaf(p, s2, 2.0f / 5);
  p = fmaf(p, s2, 2.0f / 3);
  const float ef = static_cast<float>(e);
  const float low = fmaf(ef, -2.12194440e-4f, mul(mul(p, s2), s));
  return fmaf(ef, 0.693359375f, sum(low, sum(s, s)));
}

/// sincos_turns of cpu/vector_math.h.
__device__ __forceinline__ void sincos_like_cpu(float u, float* sine, float* cosine) {
  const float magic = 12582912.0f;
  const float q = sum(fmaf(u, 4.0f, magic), -magic);
  const float t = mul(fmaf(q, -0.25f, u), 6.28318530717958647692f);
  const float t2 = mul(t, t);
  float s = fmaf(t2, 2.7557319e-6f, -1.9841270e-4f);
  s = fmaf(s, t2, 8.3333333e-3f);
  s = fmaf(s, t2, -0.16666667f);
  s = fmaf(mul(s, t2), t, t);
  float c = fmaf(t2, -2.7557319e-7f, 2.4801587e-5f);
  c = fmaf(c, t2, -1.3888889e-3f);
  c = fmaf(c, t2, 4.1666667e-2f);
  c = fmaf(c, t2, -0.5f);
  c = fmaf(c, t2, 1.0f);
  const int32_t quadrant = static_cast<int32_t>(q);
  const float a = quadrant & 1 ? c : s, b = quadrant & 1 ? s : c;
  *sine = __int_as_float(__float_as_int(a) ^ ((quadrant & 2) << 30));
  *cosine = __int_as_float(__float_as_int(b) ^ (((quadrant + 1) & 2) << 30));
}

enum class Draw { dropout, uniform, normal };

/// dropout: a = 1/(1−p). uniform: a = hi−lo, b = lo. normal: a = std, b = mean.
struct Parameters {
  uint32_t threshold;
  float a, b;
};

/// Four values from one block, for elements 4·index … 4·index+3.
template <Draw D>
__device__ __forceinline__ void values_of(const Words& r, const Parameters& p, const float* x, float* y) {
  if constexpr (D == Draw::dropout) {
#pragma unroll
    for (int j = 0; j < 4; j++) y[j] = r.w[j] >= p.threshold ? mul(x[j], p.a) : 0.0f;
  } else if constexpr (D == Draw::uniform) {
#pragma unroll
    for (int j = 0; j < 4; j++) y[j] = fmaf(unit(r.w[j]), p.a, p.b);
  } else {
#pragma unroll
    for (int j = 0; j < 4; j += 2) {
      const float inner = mul(log_like_cpu(sum(unit(r.w[j]), 5.9604644775390625e-8f)), -2.0f);
      const float radius = __fsqrt_rn(inner);
      float sine, cosine;
      sincos_like_cpu(unit(r.w[j + 1]), &sine, &cosine);
      y[j] = fmaf(mul(radius, cosine), p.a, p.b);
      y[j + 1] = fmaf(mul(radius, sine), p.a, p.b);
    }
  }
}

/// Eight elements (two blocks) per turn; the last ones, and tensors that are not aligned, one by one.
template <Draw D>
__global__ void dropoutKernel(Ref y, Ref x, Parameters p, uint64_t seed, uint64_t stream, int64_t count, bool wide) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t groups = (count + 7) / 8;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < groups; g += step) {
    const int64_t i = g * 8;
    const bool whole = wide && i + 8 <= count;
    float vx[8] = {}, vy[8];
    if constexpr (D == Draw::dropout) {
      if (whole) {
        load8(x, i, vx);
      } else {
#pragma unroll
        for (int j = 0; j < 8; j++) {
          if (i + j < count) vx[j] = load1(x, i + j);
        }
      }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
      values_of<D>(philox(seed, stream, static_cast<uint64_t>(g) * 2 + half), p, vx + 4 * half, vy + 4 * half);
    }
    if (whole) {
      store8(y, i, vy);
    } else {
#pragma unroll
      for (int j = 0; j < 8; j++) {
        if (i + j < count) store1(y, i + j, vy[j]);
      }
    }
  }
}

template <Draw D>
void draw(const char* name, Out y, In x, const Parameters& p, uint64_t seed, uint64_t stream) {
  const int64_t count = element_count(y);
  launch(name, dropoutKernel<D>, dim3(grid_for(ceil_div(count, 8), kThreads)), dim3(kThreads), 0, Ref(y), Ref(x), p,
         seed, stream, count, rows_of_eight(8, y, x));
}

/// y = mask·x/(1−p); the mask depends on (seed, stream) only, so the backward is the same function of dy.
void dropout(Out y, In x, float p, uint64_t seed, uint64_t stream) {
  const auto threshold = static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
  draw<Draw::dropout>("dropout", y, x, {threshold, 1.0f / (1.0f - p), 0}, seed, stream);
}

void dropoutForward(Out y, In x, float p, uint64_t seed, uint64_t stream) { dropout(y, x, p, seed, stream); }

// Forward: y = mask·x/(1−p).
void dropoutBackward(Out dx, In dy, float p, uint64_t seed, uint64_t stream) { dropout(dx, dy, p, seed, stream); }

void randomUniform(Out x, float lo, float hi, uint64_t seed, uint64_t stream) {
  draw<Draw::uniform>("randomUniform", x, x, {0, hi - lo, lo}, seed, stream);
}

/// Words (w0, w1) of a pair give u = (w0>>8 + 1)·2⁻²⁴ in (0,1] and the angle w1: r = √(−2 ln u), (r·cos, r·sin).
void randomNormal(Out x, float mean, float std, uint64_t seed, uint64_t stream) {
  draw<Draw::normal>("randomNormal", x, x, {0, std, mean}, seed, stream);
}

}  // namespace

void add_random(Ops& t) {
  t.dropoutForward = dropoutForward;
  t.dropoutBackward = dropoutBackward;
  t.randomUniform = randomUniform;
  t.randomNormal = randomNormal;
}

}  // namespace lathe::cuda
