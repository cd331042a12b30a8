// Whole-tensor reductions: fixed chunks, partial results added in order, so no run differs from another.
#include "device.h"
#include "parts.h"
#include "ref.cuh"
#include "table.cuh"

namespace lathe::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 4096;  // elements per block, as on the CPU

/// Σ x² of one chunk of one tensor, in f64. One block per chunk.
__global__ void sumSquaresChunks(double* partial, const ListEntry* entries, int count) {
  __shared__ double shared[kThreads / 32];
  const ListEntry& e = entries[entry_of(entries, count, blockIdx.x)];
  const Ref x = entry_ref(e, 0);
  const int64_t begin = (blockIdx.x - e.first_chunk) * kChunk;
  const int64_t end = begin + kChunk < e.elements ? begin + kChunk : e.elements;
  double sum = 0;
  if (e.wide) {
    for (int64_t i = begin + threadIdx.x * 8; i < end; i += kThreads * 8) {
      float v[8];
      if (i + 8 <= end) {
        load8(x, i, v);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += static_cast<double>(v[j]) * v[j];
      } else {
        for (int64_t k = i; k < end; k++) {
          const double s = load1(x, k);
          sum += s * s;
        }
      }
    }
  } else {
    for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
      const double s = load1(x, i);
      sum += s * s;
    }
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

/// total = Σ partial: each thread its own stride, then the threads in order.
__global__ void sumPartials(double* total, const double* partial, int64_t chunks) {
  __shared__ double shared[32];
  double sum = 0;
  for (int64_t i = threadIdx.x; i < chunks; i += blockDim.x) sum += partial[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *total = sum;
}

void sumSquaresInto(Out sum, Ins xs) {
  ListTable table(xs.count, kChunk);
  for (int64_t i = 0; i < xs.count; i++) table.add({&xs.items[i]});
  if (table.chunks() == 0) {
    check(cudaMemsetAsync(sum.data, 0, 8, stream()), "sumSquaresInto");
    return;
  }
  const Scratch partial(table.chunks() * 8);
  launch("sumSquaresChunks", sumSquaresChunks, dim3(static_cast<unsigned>(table.chunks())), dim3(kThreads), 0,
         partial.as<double>(), table.entries(), table.count());
  launch("sumPartials", sumPartials, dim3(1), dim3(1024), 0, static_cast<double*>(sum.data),
         partial.as<const double>(), table.chunks());
}

/// Waits for the device: the optimizer uses sumSquaresInto instead.
double sumSquares(In x) {
  const Scratch total(8);
  const Tensor sum = {total.as<void>(), {8}, 1, DType::u8, Device::cuda, true};
  sumSquaresInto(sum, {&x, 1});
  double result = 0;
  stage_download(&result, total.as<void>(), 8);
  return result;
}

/// Squares of finite f32 stay finite in f64, so the sum is finite exactly when every element is.
bool hasNonFinite(In x) { return !__builtin_isfinite(sumSquares(x)); }

}  // namespace

void add_reduce(Ops& t) {
  t.sumSquares = sumSquares;
  t.hasNonFinite = hasNonFinite;
}

void add_reduce_list(ListOps& t) { t.sumSquaresInto = sumSquaresInto; }

}  // namespace lathe::cuda
