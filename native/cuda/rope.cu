// Per-head RMSNorm (Qwen3's q/k norm, optional) and rotary embedding in one pass over q or k. A head belongs to a
// group of lanes of one warp; each lane holds the pairs (i, i + D/2), so that norm and rotation stay in registers.
#include "partials.cuh"
#include "parts.h"
#include "ref.cuh"
#include "runtime.h"

namespace lathe::cuda {
namespace {

constexpr int kThreads = 256;

struct Rope {
  Ref out, in, x, w;
  const float *cos, *sin;
  const int32_t* positions;
  float* rstd;  // forward: written unless null; backward: read
  int64_t rows;
  int heads, half;  // half = D/2
  float eps;
};

template <int N>
__device__ __forceinline__ void load_angles(const float* p, float (&v)[N]) {
  if constexpr (N == 8) {
    const float4 a = *reinterpret_cast<const float4*>(p), b = *reinterpret_cast<const float4*>(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  } else {
    v[0] = *p;
  }
}

/// Sum over the LANES neighbouring lanes of a head.
template <int LANES>
__device__ __forceinline__ float head_sum(float v) {
#pragma unroll
  for (int o = LANES / 2; o > 0; o >>= 1) v += __shfl_xor_sync(0xFFFFFFFFu, v, o, LANES);
  return v;
}

/// Which head and which pairs a lane works on. STEPS·LANES·N = D/2 where N = 8; with N = 1 up to STEPS = 8 guarded.
template <int LANES>
struct Place {
  int64_t head;  // t·heads + h
  int lane;
  __device__ Place()
      : head((static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / LANES), lane(threadIdx.x % LANES) {}
};

// y₁ = u₁·cos − u₂·sin, y₂ = u₂·cos + u₁·sin with u = x·rstd·w (u = x without w).
template <int N, int LANES, int STEPS, bool NORM>
__global__ void __launch_bounds__(kThreads) qkNormRopeForwardKernel(Rope r) {
  const Place<LANES> place;
  const bool active = place.head < r.rows * r.heads;
  const int64_t base = place.head * 2 * r.half;
  float a[STEPS][N] = {}, b[STEPS][N] = {};
  float sum = 0;
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    const int i = (s * LANES + place.lane) * N;
    if (!active || i >= r.half) continue;
    load<N>(r.in, base + i, a[s]);
    load<N>(r.in, base + r.half + i, b[s]);
    if constexpr (NORM) {
#pragma unroll
      for (int j = 0; j < N; j++) sum = fmaf(a[s][j], a[s][j], fmaf(b[s][j], b[s][j], sum));
    }
  }
  float inverse = 1.0f;
  if constexpr (NORM) {
    const float mean = head_sum<LANES>(sum) / static_cast<float>(2 * r.half);
    inverse = __fdiv_rn(1.0f, __fsqrt_rn(mean + r.eps));
    if (active && place.lane == 0 && r.rstd) r.rstd[place.head] = inverse;
  }
  if (!active) return;
  const int64_t angle = static_cast<int64_t>(r.positions[place.head / r.heads]) * r.half;
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    const int i = (s * LANES + place.lane) * N;
    if (i >= r.half) continue;
    float c[N], sn[N];
    load_angles<N>(r.cos + angle + i, c);
    load_angles<N>(r.sin + angle + i, sn);
    if constexpr (NORM) {
      float wa[N], wb[N];
      load<N>(r.w, i, wa);
      load<N>(r.w, r.half + i, wb);
#pragma unroll
      for (int j = 0; j < N; j++) {
        a[s][j] = a[s][j] * inverse * wa[j];
        b[s][j] = b[s][j] * inverse * wb[j];
      }
    }
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float u = a[s][j], v = b[s][j];
      a[s][j] = fmaf(u, c[j], -(v * sn[j]));
      b[s][j] = fmaf(v, c[j], u * sn[j]);
    }
    store<N>(r.out, base + i, a[s]);
    store<N>(r.out, base + r.half + i, b[s]);
  }
}

// Forward was y = R·u: du₁ = dy₁·cos + dy₂·sin, du₂ = dy₂·cos − dy₁·sin; and u = x̂·w, x̂ = x·rstd: with g = du·w,
// dx = rstd·(g − x̂·mean(g·x̂)).
template <int N, int LANES, int STEPS, bool NORM>
__global__ void __launch_bounds__(kThreads) qkNormRopeBackwardKernel(Rope r) {
  const Place<LANES> place;
  const bool active = place.head < r.rows * r.heads;
  const int64_t base = place.head * 2 * r.half;
  const int64_t angle = active ? static_cast<int64_t>(r.positions[place.head / r.heads]) * r.half : 0;
  const float inverse = NORM && active ? r.rstd[place.head] : 1.0f;
  float a[STEPS][N] = {}, b[STEPS][N] = {}, xa[STEPS][N] = {}, xb[STEPS][N] = {};
  float dot = 0;
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    const int i = (s * LANES + place.lane) * N;
    if (!active || i >= r.half) continue;
    float c[N], sn[N];
    load<N>(r.in, base + i, a[s]);
    load<N>(r.in, base + r.half + i, b[s]);
    load_angles<N>(r.cos + angle + i, c);
    load_angles<N>(r.sin + angle + i, sn);
#pragma unroll
    for (int j = 0; j < N; j++) {
      const float u = a[s][j], v = b[s][j];
      a[s][j] = fmaf(u, c[j], v * sn[j]);
      b[s][j] = fmaf(v, c[j], -(u * sn[j]));
    }
    if constexpr (NORM) {
      float wa[N], wb[N];
      load<N>(r.w, i, wa);
      load<N>(r.w, r.half + i, wb);
      load<N>(r.x, base + i, xa[s]);
      load<N>(r.x, base + r.half + i, xb[s]);
#pragma unroll
      for (int j = 0; j < N; j++) {
        a[s][j] *= wa[j];
        b[s][j] *= wb[j];
        xa[s][j] *= inverse;
        xb[s][j] *= inverse;
        dot = fmaf(a[s][j], xa[s][j], fmaf(b[s][j], xb[s][j], dot));
      }
    }
  }
  const float mean = NORM ? head_sum<LANES>(dot) / static_cast<float>(2 * r.half) : 0.0f;
  if (!active) return;
#pragma unroll
  for (int s = 0; s < STEPS; s++) {
    const int i = (s * LANES + place.lane) * N;
    if (i >= r.half) continue;
    if constexpr (NORM) {
#pragma unroll
      for (int j = 0; j < N; j++) {
        a[s][j] = fmaf(xa[s][j], -mean, a[s][j]) * inverse;
        b[s][j] = fmaf(xb[s][j], -mean, b[s][j]) * inverse;
      }
    }
    store<N>(r.out, base + i, a[s]);
    store<N>(r.out, base + r.half + i, b[s]);
  }
}

/// partial[slice, i] = Σ of du·x̂ over the slice's tokens and all heads, in that order; a thread per i < D.
__global__ void qkNormWeightKernel(float* partial, Rope r, int64_t rows_per_slice) {
  const int64_t begin = blockIdx.x * rows_per_slice;
  const int64_t end = begin + rows_per_slice < r.rows ? begin + rows_per_slice : r.rows;
  const int d = 2 * r.half;
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    const bool low = i < r.half;
    const int pair = low ? i : i - r.half, other = low ? i + r.half : i - r.half;
    float sum = 0;
    for (int64_t t = begin; t < end; t++) {
      const int64_t angle = static_cast<int64_t>(r.positions[t]) * r.half + pair;
      const float c = r.cos[angle], s = low ? r.sin[angle] : -r.sin[angle];
      for (int h = 0; h < r.heads; h++) {
        const int64_t head = t * r.heads + h;
        const float du = fmaf(load1(r.in, head * d + i), c, load1(r.in, head * d + other) * s);
        sum = fmaf(du, load1(r.x, head * d + i) * r.rstd[head], sum);
      }
    }
    partial[blockIdx.x * d + i] = sum;
  }
}

template <int N, int LANES, int STEPS>
void launch_rope(const Rope& r, bool norm, bool backward) {
  const int64_t lanes = r.rows * r.heads * LANES;
  const dim3 grid(static_cast<unsigned>(ceil_div(lanes, kThreads)));
  const auto kernel = backward ? (norm ? qkNormRopeBackwardKernel<N, LANES, STEPS, true>
                                       : qkNormRopeBackwardKernel<N, LANES, STEPS, false>)
                               : (norm ? qkNormRopeForwardKernel<N, LANES, STEPS, true>
                                       : qkNormRopeForwardKernel<N, LANES, STEPS, false>);
  launch(backward ? "qkNormRopeBackward" : "qkNormRopeForward", kernel, grid, dim3(kThreads), 0, r);
}

/// Head sizes 64, 128 and 256 eight elements at a time; any other with a warp per head, one at a time.
void run(const Rope& r, bool norm, bool backward, bool wide) {
  if (wide && r.half == 32) return launch_rope<8, 4, 1>(r, norm, backward);
  if (wide && r.half == 64) return launch_rope<8, 8, 1>(r, norm, backward);
  if (wide && r.half == 128) return launch_rope<8, 16, 1>(r, norm, backward);
  if (r.half <= 64) return launch_rope<1, 32, 2>(r, norm, backward);
  return launch_rope<1, 32, 8>(r, norm, backward);
}

void qkNormRopeForward(Out y, OptionalOut rstd, In x, OptionalIn w, In cos, In sin, In positions, int64_t d,
                       float eps) {
  In weight = w ? *w : x;
  const Rope r = {Ref(y),        Ref(x),        Ref(x),
                  Ref(weight),   f32_data(cos), f32_data(sin),
                  static_cast<const int32_t*>(positions.data),
                  rstd ? f32_data(*rstd) : nullptr,
                  x.dims[0],     static_cast<int>(x.dims[1] / d),
                  static_cast<int>(d / 2),
                  eps};
  run(r, w != nullptr, false, rows_of_eight(d / 2, y, x, weight, cos, sin));
}

void qkNormRopeBackward(Out dx, OptionalOut dw, In dy, OptionalIn x, OptionalIn w, OptionalIn rstd, In cos, In sin,
                        In positions, int64_t d) {
  In weight = w ? *w : dy, input = w ? *x : dy;
  const Rope r = {Ref(dx),       Ref(dy),       Ref(input),
                  Ref(weight),   f32_data(cos), f32_data(sin),
                  static_cast<const int32_t*>(positions.data),
                  w ? f32_data(*rstd) : nullptr,
                  dy.dims[0],    static_cast<int>(dy.dims[1] / d),
                  static_cast<int>(d / 2),
                  0};
  if (r.rows == 0 || r.heads == 0) return;
  if (dw) {
    // First: dx may lie over dy.
    const int64_t slices = slices_of(r.rows, 16, 256);
    const Scratch partial(slices * d * 4);
    launch("qkNormWeight", qkNormWeightKernel, dim3(static_cast<unsigned>(slices)), dim3(128), 0, partial.as<float>(),
           r, ceil_div(r.rows, slices));
    add_partials(f32_data(*dw), partial.as<const float>(), d, slices);
  }
  run(r, w != nullptr, true, rows_of_eight(d / 2, dx, dy, input, weight, cos, sin));
}

}  // namespace

void add_rope(Ops& t) {
  t.qkNormRopeForward = qkNormRopeForward;
  t.qkNormRopeBackward = qkNormRopeBackward;
}

}  // namespace lathe::cuda
