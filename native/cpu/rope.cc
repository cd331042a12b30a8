// Per-head RMSNorm (Qwen3's q/k norm, optional) and rotary embedding in one pass over q or k.
#include "ops_parts.h"
#include "parallel.h"
#include "vector_math.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int kMaxHeadDim = 512;

/// Pointers of one head of one token; cos and sin have D/2 values.
struct Head {
  FloatRef out, in;
  const float *cos, *sin;
};

inline FloatRef ref(const float* p) { return FloatRef(const_cast<char*>(reinterpret_cast<const char*>(p)), false); }

// y₁ = u₁·cos − u₂·sin, y₂ = u₂·cos + u₁·sin with u = x·rstd·w (u = x without w).
void forward_head(const Head& h, const FloatRef* w, float rstd, int64_t half) {
  each_vector(half, [&](int64_t i, int n) {
    VF a = load(h.in, i, n), b = load(h.in, half + i, n);
    if (w) {
      a = a * rstd * load(*w, i, n);
      b = b * rstd * load(*w, half + i, n);
    }
    const VF c = load(ref(h.cos), i, n), s = load(ref(h.sin), i, n);
    store(h.out, i, fma(a, c, -(b * s)), n);
    store(h.out, half + i, fma(b, c, a * s), n);
  });
}

float head_inverse_rms(FloatRef x, int64_t d, float eps) {
  VF sum = {};
  each_vector(d, [&](int64_t i, int n) {
    const VF v = load(x, i, n);
    sum = fma(v, v, sum);
  });
  return (vset(1.0f) / vsqrt(vset(vsum(sum) / static_cast<float>(d) + eps)))[0];
}

void qkNormRopeForward(Out y, OptionalOut rstd, In x, OptionalIn w, In cos, In sin, In positions, int64_t d,
                       float eps) {
  const int64_t rows = x.dims[0], columns = x.dims[1], heads = columns / d, half = d / 2;
  const FloatRef ry(y), rx(x), rw(w ? *w : x);
  parallel_ranges(rows, fine_rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const int64_t angle = i32_data(positions)[t] * half;
      for (int64_t h = 0; h < heads; h++) {
        const int64_t o = t * columns + h * d;
        const float inverse = w ? head_inverse_rms(rx.at(o), d, eps) : 1.0f;
        if (rstd) f32_data(*rstd)[t * heads + h] = inverse;
        forward_head({ry.at(o), rx.at(o), f32_data(cos) + angle, f32_data(sin) + angle}, w ? &rw : nullptr, inverse,
                     half);
      }
    }
  });
}

// Forward was y = R·u: du₁ = dy₁·cos + dy₂·sin, du₂ = dy₂·cos − dy₁·sin.
void unrotate(const Head& h, int64_t half) {
  each_vector(half, [&](int64_t i, int n) {
    const VF a = load(h.in, i, n), b = load(h.in, half + i, n);
    const VF c = load(ref(h.cos), i, n), s = load(ref(h.sin), i, n);
    store(h.out, i, fma(a, c, b * s), n);
    store(h.out, half + i, fma(b, c, -(a * s)), n);
  });
}

// Forward was u = x̂·w, x̂ = x·rstd: with g = du·w, dx = rstd·(g − x̂·mean(g·x̂)), dw += du·x̂.
void norm_backward_head(FloatRef dx, const float* du, FloatRef x, FloatRef w, float rstd, int64_t d, float* dw) {
  VF dot = {};
  each_vector(d, [&](int64_t i, int n) {
    const VF normal = load(x, i, n) * rstd, g = load(ref(du), i, n);
    dot = fma(g * load(w, i, n), normal, dot);
    if (dw) store(ref(dw), i, fma(g, normal, load(ref(dw), i, n)), n);
  });
  const float mean = vsum(dot) / static_cast<float>(d);
  each_vector(d, [&](int64_t i, int n) {
    const VF g = load(ref(du), i, n) * load(w, i, n);
    store(dx, i, fma(load(x, i, n) * rstd, vset(-mean), g) * rstd, n);
  });
}

void qkNormRopeBackward(Out dx, OptionalOut dw, In dy, OptionalIn x, OptionalIn w, OptionalIn rstd, In cos, In sin,
                        In positions, int64_t d) {
  const int64_t rows = dy.dims[0], columns = dy.dims[1], heads = columns / d, half = d / 2;
  const int64_t grain = rows_per_task(columns), chunks = (rows + grain - 1) / grain;
  const FloatRef rdx(dx), rdy(dy), rx(w ? *x : dy), rw(w ? *w : dy);
  const Scratch partial(dw ? chunks * d * 4 : 0);
  parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    alignas(64) float du[kMaxHeadDim];
    float* sum = dw ? partial.floats() + begin / grain * d : nullptr;
    for (int64_t i = 0; sum && i < d; i++) sum[i] = 0;
    for (int64_t t = begin; t < end; t++) {
      const int64_t angle = i32_data(positions)[t] * half;
      for (int64_t h = 0; h < heads; h++) {
        const int64_t o = t * columns + h * d;
        const Head head = {w ? ref(du) : rdx.at(o), rdy.at(o), f32_data(cos) + angle, f32_data(sin) + angle};
        unrotate(head, half);
        if (w) norm_backward_head(rdx.at(o), du, rx.at(o), rw, f32_data(*rstd)[t * heads + h], d, sum);
      }
    }
  });
  if (!dw) return;
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    for (int64_t i = 0; i < d; i++) f32_data(*dw)[i] += partial.floats()[chunk * d + i];
  }
}

}  // namespace

void add_rope(Ops& t) {
  t.qkNormRopeForward = qkNormRopeForward;
  t.qkNormRopeBackward = qkNormRopeBackward;
}

}  // namespace lathe::LATHE_ISA
