// RMSNorm, forward and backward: a block per row, the row held in registers between its two uses where it fits.
#include "partials.cuh"
#include "parts.h"
#include "ref.cuh"
#include "runtime.h"

namespace lathe::cuda {
namespace {

constexpr int kMaxThreads = 512;

/// A block's share of a row: group k of a thread starts at element (threadIdx.x + k·blockDim.x)·N.
/// ITEMS groups per thread stay in registers; ITEMS = 0: any width, read again for the second pass.
struct Shape {
  int threads, items;
  bool wide;
};

template <class... T>
Shape shape_for(int64_t columns, const T&... tensors) {
  const bool wide = rows_of_eight(columns, tensors...);
  const int64_t groups = wide ? columns / 8 : columns;
  const int threads = groups >= kMaxThreads ? kMaxThreads : static_cast<int>(groups < 1 ? 32 : (groups + 31) / 32 * 32);
  const int64_t items = ceil_div(groups, threads);
  return {threads, wide && items <= 4 ? (items <= 1 ? 1 : items <= 2 ? 2 : 4) : 0, wide};
}

struct Forward {
  Ref y, z, x, delta, w;
  float* rstd;
  int64_t columns;
  float eps;
};

template <int N, bool ADD>
__device__ __forceinline__ void read_row(const Forward& f, int64_t row, int64_t c, float (&v)[N]) {
  load<N>(f.x, row + c, v);
  if constexpr (ADD) {
    float d[N];
    load<N>(f.delta, row + c, d);
    // Rounded as stored: the statistics and the backward are of z, not of the exact sum.
#pragma unroll
    for (int j = 0; j < N; j++) v[j] = rounded(f.z, v[j] + d[j]);
    store<N>(f.z, row + c, v);
  }
}

template <int N>
__device__ __forceinline__ void write_normal(const Forward& f, int64_t row, int64_t c, const float (&v)[N], float r) {
  float w[N], out[N];
  load<N>(f.w, c, w);
#pragma unroll
  for (int j = 0; j < N; j++) out[j] = v[j] * r * w[j];
  store<N>(f.y, row + c, out);
}

template <int N, int ITEMS, bool ADD>
__global__ void __launch_bounds__(kMaxThreads) rmsNormKernel(Forward f) {
  __shared__ float shared[kMaxThreads / 32];
  const int64_t row = blockIdx.x * f.columns;
  const int64_t start = threadIdx.x * N, stride = static_cast<int64_t>(blockDim.x) * N;
  constexpr int kKept = ITEMS > 0 ? ITEMS : 1;
  float kept[kKept][N];
  float sum = 0;
  if constexpr (ITEMS > 0) {
#pragma unroll
    for (int k = 0; k < kKept; k++) {
      const int64_t c = start + k * stride;
      if (c >= f.columns) continue;
      read_row<N, ADD>(f, row, c, kept[k]);
#pragma unroll
      for (int j = 0; j < N; j++) sum = fmaf(kept[k][j], kept[k][j], sum);
    }
  } else {
    for (int64_t c = start; c < f.columns; c += stride) {
      read_row<N, ADD>(f, row, c, kept[0]);
#pragma unroll
      for (int j = 0; j < N; j++) sum = fmaf(kept[0][j], kept[0][j], sum);
    }
  }
  const float mean = block_sum(sum, shared) / static_cast<float>(f.columns);
  const float r = __fdiv_rn(1.0f, __fsqrt_rn(mean + f.eps));
  if (threadIdx.x == 0) f.rstd[blockIdx.x] = r;
  if constexpr (ITEMS > 0) {
#pragma unroll
    for (int k = 0; k < kKept; k++) {
      const int64_t c = start + k * stride;
      if (c < f.columns) write_normal<N>(f, row, c, kept[k], r);
    }
  } else {
    const Ref from = ADD ? f.z : f.x;
    for (int64_t c = start; c < f.columns; c += stride) {
      load<N>(from, row + c, kept[0]);
      write_normal<N>(f, row, c, kept[0], r);
    }
  }
}

template <bool ADD>
void forward(const char* name, const Forward& f, int64_t rows, const Shape& s) {
  const auto kernel = s.items == 1   ? rmsNormKernel<8, 1, ADD>
                      : s.items == 2 ? rmsNormKernel<8, 2, ADD>
                      : s.items == 4 ? rmsNormKernel<8, 4, ADD>
                      : s.wide       ? rmsNormKernel<8, 0, ADD>
                                     : rmsNormKernel<1, 0, ADD>;
  launch(name, kernel, dim3(static_cast<unsigned>(rows)), dim3(s.threads), 0, f);
}

void rmsNormForward(Out y, Out rstd, In x, In w, float eps) {
  const Forward f = {Ref(y), Ref(x), Ref(x), Ref(x), Ref(w), f32_data(rstd), x.dims[1], eps};
  forward<false>("rmsNormForward", f, x.dims[0], shape_for(x.dims[1], y, x, w));
}

void addRmsNormForward(Out y, Out z, Out rstd, In x, In delta, In w, float eps) {
  const Forward f = {Ref(y), Ref(z), Ref(x), Ref(delta), Ref(w), f32_data(rstd), x.dims[1], eps};
  forward<true>("addRmsNormForward", f, x.dims[0], shape_for(x.dims[1], y, z, x, delta, w));
}

struct Backward {
  Ref dx, dy, x, w, dres;
  const float* rstd;
  int64_t columns;
  bool bypass;  // dres is there
};

/// g = dy·w and x̂ = x·rstd at c.
template <int N>
__device__ __forceinline__ void read_gradient(const Backward& b, int64_t row, int64_t c, float r, float (&g)[N],
                                              float (&normal)[N]) {
  float w[N];
  load<N>(b.dy, row + c, g);
  load<N>(b.x, row + c, normal);
  load<N>(b.w, c, w);
#pragma unroll
  for (int j = 0; j < N; j++) {
    g[j] *= w[j];
    normal[j] *= r;
  }
}

template <int N>
__device__ __forceinline__ void write_gradient(const Backward& b, int64_t row, int64_t c, float r, float mean,
                                               const float (&g)[N], const float (&normal)[N]) {
  float out[N], extra[N];
  if (b.bypass) load<N>(b.dres, row + c, extra);
#pragma unroll
  for (int j = 0; j < N; j++) {
    out[j] = fmaf(normal[j], -mean, g[j]) * r;
    if (b.bypass) out[j] += extra[j];
  }
  store<N>(b.dx, row + c, out);
}

// Forward: y = x̂·w, x̂ = x·rstd. With g = dy·w: dx = rstd·(g − x̂·mean(g·x̂)) + dres.
template <int N, int ITEMS>
__global__ void __launch_bounds__(kMaxThreads) rmsNormBackwardKernel(Backward b) {
  __shared__ float shared[kMaxThreads / 32];
  const int64_t row = blockIdx.x * b.columns;
  const int64_t start = threadIdx.x * N, stride = static_cast<int64_t>(blockDim.x) * N;
  const float r = b.rstd[blockIdx.x];
  constexpr int kKept = ITEMS > 0 ? ITEMS : 1;
  float g[kKept][N], normal[kKept][N];
  float dot = 0;
  if constexpr (ITEMS > 0) {
#pragma unroll
    for (int k = 0; k < kKept; k++) {
      const int64_t c = start + k * stride;
      if (c >= b.columns) continue;
      read_gradient<N>(b, row, c, r, g[k], normal[k]);
#pragma unroll
      for (int j = 0; j < N; j++) dot = fmaf(g[k][j], normal[k][j], dot);
    }
  } else {
    for (int64_t c = start; c < b.columns; c += stride) {
      read_gradient<N>(b, row, c, r, g[0], normal[0]);
#pragma unroll
      for (int j = 0; j < N; j++) dot = fmaf(g[0][j], normal[0][j], dot);
    }
  }
  const float mean = block_sum(dot, shared) / static_cast<float>(b.columns);
  if constexpr (ITEMS > 0) {
#pragma unroll
    for (int k = 0; k < kKept; k++) {
      const int64_t c = start + k * stride;
      if (c < b.columns) write_gradient<N>(b, row, c, r, mean, g[k], normal[k]);
    }
  } else {
    for (int64_t c = start; c < b.columns; c += stride) {
      read_gradient<N>(b, row, c, r, g[0], normal[0]);
      write_gradient<N>(b, row, c, r, mean, g[0], normal[0]);
    }
  }
}

constexpr int kWeightColumns = 32, kWeightRows = 8;

/// partial[slice, c] = Σ of dy·x̂ over the slice's rows, eight warps added in their order.
__global__ void rmsNormWeightKernel(float* partial, Backward b, int64_t rows, int64_t rows_per_slice) {
  __shared__ float sums[kWeightRows][kWeightColumns];
  const int mine = static_cast<int>(threadIdx.x) % kWeightColumns, warp = static_cast<int>(threadIdx.x) / kWeightColumns;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kWeightColumns + mine;
  const int64_t begin = blockIdx.y * rows_per_slice;
  const int64_t end = begin + rows_per_slice < rows ? begin + rows_per_slice : rows;
  float sum = 0;
  if (c < b.columns) {
    for (int64_t t = begin + warp; t < end; t += kWeightRows) {
      const int64_t i = t * b.columns + c;
      sum = fmaf(load1(b.dy, i), load1(b.x, i) * b.rstd[t], sum);
    }
  }
  sums[warp][mine] = sum;
  __syncthreads();
  if (warp != 0 || c >= b.columns) return;
  for (int i = 1; i < kWeightRows; i++) sum += sums[i][mine];
  partial[blockIdx.y * b.columns + c] = sum;
}

void weight_gradient(float* dw, const Backward& b, int64_t rows) {
  const int64_t slices = slices_of(rows, 64, 64);
  const Scratch partial(slices * b.columns * 4);
  launch("rmsNormWeight", rmsNormWeightKernel,
         dim3(static_cast<unsigned>(ceil_div(b.columns, kWeightColumns)), static_cast<unsigned>(slices)),
         dim3(kWeightColumns * kWeightRows), 0, partial.as<float>(), b, rows, ceil_div(rows, slices));
  add_partials(dw, partial.as<const float>(), b.columns, slices);
}

void rmsNormBackward(Out dx, OptionalOut dw, In dy, In x, In w, In rstd, OptionalIn dres) {
  const int64_t rows = x.dims[0], columns = x.dims[1];
  if (rows == 0 || columns == 0) return;
  In extra = dres ? *dres : dy;
  const Backward b = {Ref(dx), Ref(dy), Ref(x), Ref(w), Ref(extra), f32_data(rstd), columns, dres != nullptr};
  if (dw) weight_gradient(f32_data(*dw), b, rows);  // first: dx may lie over dy
  const Shape s = shape_for(columns, dx, dy, x, w, extra);
  const auto kernel = s.items == 1   ? rmsNormBackwardKernel<8, 1>
                      : s.items == 2 ? rmsNormBackwardKernel<8, 2>
                      : s.items == 4 ? rmsNormBackwardKernel<8, 4>
                      : s.wide       ? rmsNormBackwardKernel<8, 0>
                                     : rmsNormBackwardKernel<1, 0>;
  launch("rmsNormBackward", kernel, dim3(static_cast<unsigned>(rows)), dim3(s.threads), 0, b);
}

}  // namespace

void add_rms_norm(Ops& t) {
  t.rmsNormForward = rmsNormForward;
  t.rmsNormBackward = rmsNormBackward;
  t.addRmsNormForward = addRmsNormForward;
}

}  // namespace lathe::cuda
