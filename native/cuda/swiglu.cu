// SwiGLU, forward and backward: one pass, eight elements per access.
#include "parts.h"
#include "ref.cuh"
#include "runtime.h"

namespace lathe::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

/// 1/(1+e^−x) to f32 accuracy, where the tensors hold f32.
__device__ __forceinline__ float sigmoid_exact(float x) { return 1.0f / (1.0f + expf(-x)); }

template <bool EXACT>
__device__ __forceinline__ float sigma(float x) {
  return EXACT ? sigmoid_exact(x) : sigmoid(x);
}

template <int N, bool EXACT>
__device__ __forceinline__ void forward_at(const Ref& y, const Ref& gate, const Ref& up, int64_t i) {
  float g[N], u[N], out[N];
  load<N>(gate, i, g);
  load<N>(up, i, u);
#pragma unroll
  for (int j = 0; j < N; j++) out[j] = g[j] * sigma<EXACT>(g[j]) * u[j];
  store<N>(y, i, out);
}

template <bool EXACT>
__global__ void swigluForwardKernel(Ref y, Ref gate, Ref up, int64_t count, int64_t vectors) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < vectors; i += step) forward_at<8, EXACT>(y, gate, up, i * 8);
  for (int64_t i = vectors * 8 + first; i < count; i += step) forward_at<1, EXACT>(y, gate, up, i);
}

struct Backward {
  Ref dgate, dup, dy, gate, up;
};

// Forward: y = g·σ(g)·u, so du = dy·g·σ(g) and dg = dy·u·σ(g)·(1 + g·(1−σ(g))).
template <int N, bool EXACT>
__device__ __forceinline__ void backward_at(const Backward& b, int64_t i) {
  float d[N], g[N], u[N];
  load<N>(b.dy, i, d);
  load<N>(b.gate, i, g);
  load<N>(b.up, i, u);
#pragma unroll
  for (int j = 0; j < N; j++) {
    const float s = sigma<EXACT>(g[j]), du = d[j] * g[j] * s;
    const float dg = d[j] * u[j] * s * fmaf(g[j], 1.0f - s, 1.0f);
    g[j] = dg;
    u[j] = du;
  }
  store<N>(b.dup, i, u);
  store<N>(b.dgate, i, g);
}

template <bool EXACT>
__global__ void swigluBackwardKernel(Backward b, int64_t count, int64_t vectors) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t i = first; i < vectors; i += step) backward_at<8, EXACT>(b, i * 8);
  for (int64_t i = vectors * 8 + first; i < count; i += step) backward_at<1, EXACT>(b, i);
}

bool all_half(std::initializer_list<const Tensor*> tensors) {
  for (const Tensor* t : tensors) {
    if (t->dtype != DType::bf16) return false;
  }
  return true;
}

void swigluForward(Out y, In gate, In up) {
  const int64_t count = element_count(y), vectors = rows_of_eight(8, y, gate, up) ? count / 8 : 0;
  const unsigned grid = grid_for(vectors ? vectors + count % 8 : count, kThreads);
  const auto kernel = all_half({&y, &gate, &up}) ? swigluForwardKernel<false> : swigluForwardKernel<true>;
  launch("swigluForward", kernel, dim3(grid), dim3(kThreads), 0, Ref(y), Ref(gate), Ref(up), count, vectors);
}

void swigluBackward(Out dgate, Out dup, In dy, In gate, In up) {
  const int64_t count = element_count(dy);
  const int64_t vectors = rows_of_eight(8, dgate, dup, dy, gate, up) ? count / 8 : 0;
  const unsigned grid = grid_for(vectors ? vectors + count % 8 : count, kThreads);
  const bool half = all_half({&dgate, &dup, &dy, &gate, &up});
  const Backward b = {Ref(dgate), Ref(dup), Ref(dy), Ref(gate), Ref(up)};
  launch("swigluBackward", half ? swigluBackwardKernel<false> : swigluBackwardKernel<true>, dim3(grid),
         dim3(kThreads), 0, b, count, vectors);
}

}  // namespace

void add_swiglu(Ops& t) {
  t.swigluForward = swigluForward;
  t.swigluBackward = swigluBackward;
}

}  // namespace lathe::cuda
