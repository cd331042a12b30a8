// Row lookups, their backward, and the key/value cache's write: rows moved eight elements at a time.
#include "parts.h"
#include "ref.cuh"
#include "runtime.h"

namespace lathe::cuda {
namespace {

constexpr int kThreads = 256;

/// How rows go from one table to another.
enum class Move { gather, scatter, scatter_add };

/// gather: to[i] = from[rows[i]]; scatter: to[rows[i]] = from[i]; scatter_add: to[rows[i]] += from[i].
template <Move M, int N>
__global__ void gatherRowsKernel(Ref to, Ref from, const int32_t* rows, int64_t count, int64_t columns) {
  const int64_t width = columns / N, groups = count * width;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < groups; g += step) {
    const int64_t i = g / width, c = (g - i * width) * N;
    const int64_t here = i * columns + c, there = static_cast<int64_t>(rows[i]) * columns + c;
    float v[N];
    load<N>(from, M == Move::gather ? there : here, v);
    if constexpr (M == Move::scatter_add) {
      float old[N];
      load<N>(to, there, old);
#pragma unroll
      for (int j = 0; j < N; j++) v[j] += old[j];
    }
    store<N>(to, M == Move::gather ? here : there, v);
  }
}

template <Move M>
void move_rows(const char* name, Out to, In from, In rows, int64_t columns) {
  const int64_t count = rows.dims[0];
  const bool wide = rows_of_eight(columns, to, from);
  const int64_t groups = count * columns / (wide ? 8 : 1);
  launch(name, wide ? gatherRowsKernel<M, 8> : gatherRowsKernel<M, 1>, dim3(grid_for(groups, kThreads)),
         dim3(kThreads), 0, Ref(to), Ref(from), static_cast<const int32_t*>(rows.data), count, columns);
}

void embeddingForward(Out out, In weight, In ids) {
  move_rows<Move::gather>("embeddingForward", out, weight, ids, weight.dims[1]);
}

void gatherRows(Out out, In x, In rows) { move_rows<Move::gather>("gatherRows", out, x, rows, x.dims[1]); }

// Forward: out[i] = x[rows[i]], rows distinct.
void scatterAddRows(Out dx, In dout, In rows) {
  move_rows<Move::scatter_add>("scatterAddRows", dx, dout, rows, dout.dims[1]);
}

void kvWrite(Out k_cache, Out v_cache, In k, In v, In slots) {
  move_rows<Move::scatter>("kvWrite", k_cache, k, slots, k.dims[1]);
  move_rows<Move::scatter>("kvWrite", v_cache, v, slots, v.dims[1]);
}

/// Block t works only if t is the first token of its id; it then adds the rows of all tokens with that id, in the
/// order of t. Each thread owns the same columns throughout, so the sums have one order and no atomics are needed.
__global__ void embeddingBackwardKernel(float* dw, Ref dout, const int32_t* ids, int tokens, int64_t columns) {
  __shared__ uint32_t matches[kThreads / 32];
  const int first = blockIdx.x, id = ids[first];
  int earlier = 0;
  for (int t = threadIdx.x; t < first; t += kThreads) earlier |= ids[t] == id;
  if (__syncthreads_or(earlier)) return;
  float* row = dw + static_cast<int64_t>(id) * columns;
  for (int tile = first; tile < tokens; tile += kThreads) {
    const int t = tile + threadIdx.x;
    const uint32_t mask = __ballot_sync(0xFFFFFFFFu, t < tokens && ids[t] == id);
    if ((threadIdx.x & 31) == 0) matches[threadIdx.x >> 5] = mask;
    __syncthreads();
    for (int w = 0; w < kThreads / 32; w++) {
      for (uint32_t left = matches[w]; left; left &= left - 1) {
        const int64_t from = static_cast<int64_t>(tile + w * 32 + __ffs(left) - 1) * columns;
        for (int64_t c = threadIdx.x; c < columns; c += kThreads) row[c] += load1(dout, from + c);
      }
    }
    __syncthreads();
  }
}

// Forward: out[t] = weight[ids[t]]. Ids repeat.
void embeddingBackward(Out dw, In dout, In ids) {
  const int64_t tokens = dout.dims[0], columns = dout.dims[1];
  if (columns == 0) return;
  launch("embeddingBackward", embeddingBackwardKernel, dim3(static_cast<unsigned>(tokens)), dim3(kThreads), 0,
         f32_data(dw), Ref(dout), static_cast<const int32_t*>(ids.data), static_cast<int>(tokens), columns);
}

}  // namespace

void add_embedding(Ops& t) {
  t.embeddingForward = embeddingForward;
  t.embeddingBackward = embeddingBackward;
  t.gatherRows = gatherRows;
  t.scatterAddRows = scatterAddRows;
  t.kvWrite = kvWrite;
}

}  // namespace lathe::cuda
