// One vector type per instruction set, over GCC/Clang vector extensions with intrinsics where those fall short.
// Everything lives in namespace lathe::LATHE_ISA with internal linkage: these files are compiled once per ISA and
// a merged inline copy would run instructions that the CPU lacks. For the same reason no standard templates here.
#pragma once
#include <cstdint>

#include "../core/tensor.h"
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace lathe::LATHE_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int W = kLanes;

typedef float VF __attribute__((vector_size(W * 4)));
typedef int32_t VI __attribute__((vector_size(W * 4)));
typedef uint32_t VU __attribute__((vector_size(W * 4)));
typedef uint16_t VH __attribute__((vector_size(W * 2)));
// The same, at any address.
typedef float VFm __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t VUm __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef uint32_t U32m __attribute__((may_alias));
typedef uint16_t VHm __attribute__((vector_size(W * 2), aligned(2), may_alias));

static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

static inline VF vset(float x) { return x - VF{}; }
static inline VI viset(int32_t x) { return x - VI{}; }
static inline VU vuset(uint32_t x) { return x - VU{}; }

static inline VF vload(const float* p) { return *reinterpret_cast<const VFm*>(p); }
static inline void vstore(float* p, VF v) { *reinterpret_cast<VFm*>(p) = v; }

/// The first n (0 < n < W) lanes, zero elsewhere.
static inline VF vload_part(const float* p, int n) {
#if defined(__AVX512F__)
  return (VF)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p);
#else
  alignas(64) float lanes[W] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return vload(lanes);
#endif
}

static inline void vstore_part(float* p, VF v, int n) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), (__m512)v);
#else
  alignas(64) float lanes[W];
  vstore(lanes, v);
  for (int i = 0; i < n; i++) p[i] = lanes[i];
#endif
}

static inline VF vload_n(const float* p, int n) { return n == W ? vload(p) : vload_part(p, n); }
static inline void vstore_n(float* p, VF v, int n) {
  if (n == W) {
    vstore(p, v);
  } else {
    vstore_part(p, v, n);
  }
}

/// a·b + c, fused where the instruction set has it. Products elsewhere are not contracted (-ffp-contract=off), so
/// a remainder loop rounds exactly as the main loop does.
static inline VF fma(VF a, VF b, VF c) {
#if defined(__AVX512F__)
  return (VF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (VF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (VF)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

/// Lane-wise maximum/minimum; b where either is NaN.
static inline VF vmax(VF a, VF b) {
#if defined(__AVX512F__)
  return (VF)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (VF)_mm256_max_ps((__m256)a, (__m256)b);
#else
  const VI take_a = a > b;
  return (VF)((take_a & (VI)a) | (~take_a & (VI)b));
#endif
}

static inline VF vmin(VF a, VF b) {
#if defined(__AVX512F__)
  return (VF)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (VF)_mm256_min_ps((__m256)a, (__m256)b);
#else
  const VI take_a = a < b;
  return (VF)((take_a & (VI)a) | (~take_a & (VI)b));
#endif
}

/// mask ? a : b, mask lanes all ones or all zeros.
static inline VF vselect(VI mask, VF a, VF b) { return (VF)((mask & (VI)a) | (~mask & (VI)b)); }

static inline VF vsqrt(VF x) {
#if defined(__AVX512F__)
  return (VF)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (VF)_mm256_sqrt_ps((__m256)x);
#elif defined(__aarch64__)
  return (VF)vsqrtq_f32((float32x4_t)x);
#elif defined(__SSE2__)
  return (VF)_mm_sqrt_ps((__m128)x);
#else
  VF r;
  for (int i = 0; i < W; i++) r[i] = __builtin_sqrtf(x[i]);
  return r;
#endif
}

/// Sum of lanes in one fixed tree: halves, then halves of those.
static inline float vsum(VF v) {
#if defined(__AVX512F__)
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
#elif defined(__AVX2__)
  const __m256 s8 = (__m256)v;
#endif
#if defined(__AVX2__)
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
#else
  return (v[0] + v[2]) + (v[1] + v[3]);
#endif
}

static inline float vmax_lane(VF v) {
  alignas(64) float lanes[W];
  vstore(lanes, v);
  float best = lanes[0];
  for (int i = 1; i < W; i++) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// ---- bf16 ----

static inline VF bf16_to_float(VH h) { return (VF)(__builtin_convertvector(h, VU) << 16); }

/// Round to nearest even; NaN stays NaN (quiet).
static inline VH float_to_bf16(VF f) {
  const VU u = (VU)f;
  VU rounded = u + 0x7FFFu + ((u >> 16) & 1u);
#if defined(__AVX512F__)
  const __mmask16 nan = _mm512_cmp_ps_mask((__m512)f, (__m512)f, _CMP_UNORD_Q);
  rounded = (VU)_mm512_mask_or_epi32((__m512i)rounded, nan, (__m512i)u, _mm512_set1_epi32(0x400000));
  return (VH)_mm512_cvtepi32_epi16((__m512i)(rounded >> 16));
#else
  const VU nan = (VU)((u & 0x7FFFFFFFu) > vuset(0x7F800000u));
  rounded = ((nan & (u | 0x400000u)) | (~nan & rounded)) >> 16;
#if defined(__AVX2__)
  const __m256i packed = _mm256_packus_epi32((__m256i)rounded, (__m256i)rounded);
  return (VH)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
#else
  return __builtin_convertvector(rounded, VH);
#endif
#endif
}

static inline float bf16_to_float(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float f;
  __builtin_memcpy(&f, &u, 4);
  return f;
}

/// The first n (0 < n < W) lanes of bf16 bits, zero elsewhere.
static inline VH load_half_part(const uint16_t* p, int n) {
#if defined(__AVX512F__)
  return (VH)_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), p);
#else
  VH h = {};
  for (int j = 0; j < n; j++) h[j] = p[j];
  return h;
#endif
}

static inline void store_half_part(uint16_t* p, VH h, int n) {
#if defined(__AVX512F__)
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << n) - 1), (__m256i)h);
#else
  for (int j = 0; j < n; j++) p[j] = h[j];
#endif
}

// ---- a float tensor of either type, read and written as f32 ----

struct FloatRef {
  char* data;
  bool half;

  FloatRef(const Tensor& t) : data(static_cast<char*>(t.data)), half(t.dtype == DType::bf16) {}
  FloatRef(char* p, bool is_half) : data(p), half(is_half) {}
  __attribute__((always_inline)) FloatRef at(int64_t i) const { return FloatRef(data + i * (half ? 2 : 4), half); }
};

/// Elements [i, i+n); n = W is the fast path.
static inline VF load(FloatRef r, int64_t i, int n = W) {
  if (r.half) {
    const uint16_t* p = reinterpret_cast<const uint16_t*>(r.data) + i;
    if (n == W) return bf16_to_float(*reinterpret_cast<const VHm*>(p));
    return bf16_to_float(load_half_part(p, n));
  }
  return vload_n(reinterpret_cast<const float*>(r.data) + i, n);
}

static inline void store(FloatRef r, int64_t i, VF v, int n = W) {
  if (r.half) {
    uint16_t* p = reinterpret_cast<uint16_t*>(r.data) + i;
    const VH h = float_to_bf16(v);
    if (n == W) {
      *reinterpret_cast<VHm*>(p) = h;
    } else {
      store_half_part(p, h, n);
    }
    return;
  }
  vstore_n(reinterpret_cast<float*>(r.data) + i, v, n);
}

/// f(i, n) for i = 0, W, 2W, …; n = W but for the last.
template <class F>
static inline __attribute__((always_inline)) void each_vector(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + W <= count; i += W) f(i, W);
  if (i < count) f(i, static_cast<int>(count - i));
}

}  // namespace lathe::LATHE_ISA
