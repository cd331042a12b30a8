// exp, log, sine and cosine on vectors: own polynomials, no system math library. Errors are the largest seen
// against f64 over the stated range (test/native/math.test.ts looks through the ops).
#pragma once
#include "simd.h"

namespace lathe::LATHE_ISA {

/// p·2^n for n in [−126, 128].
static inline VF scale_by_power(VF p, VF n) {
#if defined(__AVX512F__)
  return (VF)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  const VI e = __builtin_convertvector(n, VI);
  const VI half = e >> 1;  // 2^128 is no float: two factors
  return p * (VF)((half + 127) << 23) * (VF)((e - half + 127) << 23);
#endif
}

/// e^x, relative error < 1.5·2⁻²³; 0 below −87.33 (no subnormal results), +inf above 88.73, NaN for NaN.
/// x = n·ln2 + r, |r| ≤ ln2/2, e^r by a degree-6 interpolation at Chebyshev nodes (error 5e-9).
static inline VF vexp(VF x) {
  const VF clamped = vmax(vset(-87.33f), vmin(vset(89.0f), x));
  const VF magic = vset(12582912.0f);  // 1.5·2²³: adding it rounds to an integer
  const VF n = fma(clamped, vset(1.44269504f), magic) - magic;
  VF r = fma(n, vset(-0.693359375f), clamped);  // ln2 in two parts: the first product is exact
  r = fma(n, vset(2.12194440e-4f), r);
  VF p = vset(0.001393368586195062f);
  p = fma(p, r, vset(0.008369184382280554f));
  p = fma(p, r, vset(0.04166646460202769f));
  p = fma(p, r, vset(0.16666504936963691f));
  p = fma(p, r, vset(0.5f));
  p = fma(p * r, r, r) + 1.0f;
  const VF y = scale_by_power(p, n);
  return vselect(x < vset(-87.33f), VF{}, y);
}

/// σ(x) = 1/(1+e^−x).
static inline VF vsigmoid(VF x) { return vset(1.0f) / (vexp(-x) + 1.0f); }

/// ln x for normal positive x, absolute error < 2⁻²³ + relative 2⁻²³.
/// x = 2^e·m, m in [√½, √2): ln m = 2·atanh(s), s = (m−1)/(m+1).
static inline VF vlog(VF x) {
  const VI bits = (VI)x;
  const VI e = (bits - 0x3F3504F3) >> 23;
  const VF m = (VF)(bits - (e << 23));
  const VF s = (m - 1.0f) / (m + 1.0f);
  const VF s2 = s * s;
  VF p = fma(s2, vset(2.0f / 9), vset(2.0f / 7));
  p = fma(p, s2, vset(2.0f / 5));
  p = fma(p, s2, vset(2.0f / 3));
  const VF ef = __builtin_convertvector(e, VF);
  const VF low = fma(ef, vset(-2.12194440e-4f), p * s2 * s);
  return fma(ef, vset(0.693359375f), low + (s + s));
}

static inline float log_scalar(float x) { return vlog(vset(x))[0]; }

/// sin and cos of 2πu for u in [0,1), absolute error < 2⁻²². Quadrant by rounding 4u, Taylor on |θ| ≤ π/4.
static inline void sincos_turns(VF u, VF* sine, VF* cosine) {
  const VF magic = vset(12582912.0f);
  const VF q = fma(u, vset(4.0f), magic) - magic;
  const VF t = fma(q, vset(-0.25f), u) * 6.28318530717958647692f;
  const VF t2 = t * t;
  VF s = fma(t2, vset(2.7557319e-6f), vset(-1.9841270e-4f));
  s = fma(s, t2, vset(8.3333333e-3f));
  s = fma(s, t2, vset(-0.16666667f));
  s = fma(s * t2, t, t);
  VF c = fma(t2, vset(-2.7557319e-7f), vset(2.4801587e-5f));
  c = fma(c, t2, vset(-1.3888889e-3f));
  c = fma(c, t2, vset(4.1666667e-2f));
  c = fma(c, t2, vset(-0.5f));
  c = fma(c, t2, vset(1.0f));
  const VI quadrant = __builtin_convertvector(q, VI);
  const VI swap = -(quadrant & 1);
  const VF a = vselect(swap, c, s), b = vselect(swap, s, c);
  *sine = (VF)((VI)a ^ ((quadrant & 2) << 30));
  *cosine = (VF)((VI)b ^ (((quadrant + 1) & 2) << 30));
}

}  // namespace lathe::LATHE_ISA
