// Elementwise ops and bias: memory-bound, one pass each, eight elements per access.
#include "partials.cuh"
#include "parts.h"
#include "ref.cuh"
#include "runtime.h"

namespace lathe::cuda {
namespace {

constexpr int kThreads = 256;

/// y[i] = f(y[i], a[i], b[i]) with what f does not use not loaded.
enum class Kind { fill, cast, add, axpy, scale };

template <Kind K, int N>
__device__ __forceinline__ void apply(const Ref& y, const Ref& a, const Ref& b, float alpha, int64_t i) {
  float vy[N], va[N], vb[N];
  if constexpr (K == Kind::cast || K == Kind::add || K == Kind::axpy) load<N>(a, i, va);
  if constexpr (K == Kind::add) load<N>(b, i, vb);
  if constexpr (K == Kind::axpy || K == Kind::scale) load<N>(y, i, vy);
#pragma unroll
  for (int j = 0; j < N; j++) {
    if constexpr (K == Kind::fill) vy[j] = alpha;
    if constexpr (K == Kind::cast) vy[j] = va[j];
    if constexpr (K == Kind::add) vy[j] = va[j] + vb[j];
    if constexpr (K == Kind::axpy) vy[j] = fmaf(alpha, va[j], vy[j]);
    if constexpr (K == Kind::scale) vy[j] = alpha * vy[j];
  }
  store<N>(y, i, vy);
}

/// The first `vectors` groups of eight, then the rest one by one.
template <Kind K>
__global__ void elementwiseKernel(Ref y, Ref a, Ref b, float alpha, int64_t count, int64_t vectors) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < vectors; i += step) apply<K, 8>(y, a, b, alpha, i * 8);
  for (int64_t i = vectors * 8 + first; i < count; i += step) apply<K, 1>(y, a, b, alpha, i);
}

template <Kind K>
void elementwise(const char* name, Out y, In a, In b, float alpha) {
  const int64_t count = element_count(y);
  const int64_t vectors = rows_of_eight(8, y, a, b) ? count / 8 : 0;
  const unsigned grid = grid_for(vectors ? vectors + count % 8 : count, kThreads);
  launch(name, elementwiseKernel<K>, dim3(grid), dim3(kThreads), 0, Ref(y), Ref(a), Ref(b), alpha, count, vectors);
}

void fill(Out x, double value) {
  const int64_t count = element_count(x);
  if (count == 0) return;
  if (value == 0) {
    check(cudaMemsetAsync(x.data, 0, static_cast<size_t>(byte_count(x)), stream()), "fill");
    return;
  }
  float bits = static_cast<float>(value);
  Tensor view = x;
  if (x.dtype == DType::i32) {
    // The kernel stores f32 unchanged, so the integer's bits travel as one.
    const int32_t integer = static_cast<int32_t>(value);
    __builtin_memcpy(&bits, &integer, sizeof bits);
    view.dtype = DType::f32;
  }
  elementwise<Kind::fill>("fill", view, view, view, bits);
}

void copy(Out dst, In src) {
  check(cudaMemcpyAsync(dst.data, src.data, static_cast<size_t>(byte_count(dst)), cudaMemcpyDeviceToDevice, stream()),
        "copy");
}

void cast(Out dst, In src) { elementwise<Kind::cast>("cast", dst, src, src, 0); }
void add(Out out, In a, In b) { elementwise<Kind::add>("add", out, a, b, 0); }
void axpy(Out y, float alpha, In x) { elementwise<Kind::axpy>("axpy", y, x, x, alpha); }
void scale(Out y, float alpha) { elementwise<Kind::scale>("scale", y, y, y, alpha); }

template <int N>
__global__ void addBiasKernel(Ref y, Ref b, int64_t groups, int64_t columns) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < groups; g += step) {
    const int64_t i = g * N;
    float vy[N], vb[N];
    load<N>(y, i, vy);
    load<N>(b, i % columns, vb);
#pragma unroll
    for (int j = 0; j < N; j++) vy[j] += vb[j];
    store<N>(y, i, vy);
  }
}

void addBias(Out y, In b) {
  const int64_t count = element_count(y), columns = y.dims[1];
  const bool wide = rows_of_eight(columns, y, b);
  const int64_t groups = wide ? count / 8 : count;
  launch("addBias", wide ? addBiasKernel<8> : addBiasKernel<1>, dim3(grid_for(groups, kThreads)), dim3(kThreads), 0,
         Ref(y), Ref(b), groups, columns);
}

constexpr int kBiasColumns = 32, kBiasRows = 8;  // one warp reads 32 neighbouring columns of a row

/// partial[slice, c] = Σ of dy[t, c] over the rows of the slice, rows taken by eight warps and added in their order.
__global__ void biasSumKernel(float* partial, Ref dy, int64_t rows, int64_t columns, int64_t rows_per_slice) {
  __shared__ float sums[kBiasRows][kBiasColumns];
  const int mine = static_cast<int>(threadIdx.x) % kBiasColumns, warp = static_cast<int>(threadIdx.x) / kBiasColumns;
  const int64_t c = static_cast<int64_t>(blockIdx.x) * kBiasColumns + mine;
  const int64_t begin = blockIdx.y * rows_per_slice;
  const int64_t end = begin + rows_per_slice < rows ? begin + rows_per_slice : rows;
  float sum = 0;
  if (c < columns) {
    for (int64_t t = begin + warp; t < end; t += kBiasRows) sum += load1(dy, t * columns + c);
  }
  sums[warp][mine] = sum;
  __syncthreads();
  if (warp != 0 || c >= columns) return;
  for (int i = 1; i < kBiasRows; i++) sum += sums[i][mine];
  partial[blockIdx.y * columns + c] = sum;
}

// Forward: y[t,c] += b[c]. Slices of rows are summed on their own, then added in order: no atomics.
void biasBackward(Out db, In dy) {
  const int64_t rows = dy.dims[0], columns = dy.dims[1];
  if (rows == 0 || columns == 0) return;
  const int64_t slices = slices_of(rows, 64, 64), per_slice = ceil_div(rows, slices);
  const Scratch partial(slices * columns * 4);
  launch("biasSum", biasSumKernel,
         dim3(static_cast<unsigned>(ceil_div(columns, kBiasColumns)), static_cast<unsigned>(slices)),
         dim3(kBiasColumns * kBiasRows), 0, partial.as<float>(), Ref(dy), rows, columns, per_slice);
  add_partials(f32_data(db), partial.as<const float>(), columns, slices);
}

}  // namespace

void add_elementwise(Ops& t) {
  t.fill = fill;
  t.copy = copy;
  t.cast = cast;
  t.add = add;
  t.axpy = axpy;
  t.scale = scale;
  t.addBias = addBias;
  t.biasBackward = biasBackward;
}

}  // namespace lathe::cuda
