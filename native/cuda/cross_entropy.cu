// linearCrossEntropy on CUDA: logits for one chunk of rows at a time, in f32 whatever the inputs are (rounding them to
// bf16 would move the argmax and cost 1e-2 of a loss); the gradient's chunk is bf16 when x and w are.
#include "cross_entropy_kernel.h"
#include "gemm.h"
#include "parts.h"
#include "runtime.h"

namespace lathe::cuda {
namespace {

constexpr int64_t kChunkLogits = 1ll << 27;  // 512 MiB of logits and 256 MiB of gradient at most
constexpr int64_t kRowStep = 128;            // chunks are whole tiles of the products

Tensor matrix(void* data, int64_t rows, int64_t columns, DType dtype) {
  return {data, {rows, columns}, 2, dtype, Device::cuda, true};
}

Tensor rows_of(In t, int64_t first, int64_t rows) {
  Tensor part = t;
  part.data = static_cast<char*>(t.data) + first * t.dims[1] * dtype_bytes(t.dtype);
  part.dims[0] = rows;
  part.host = nullptr;
  return part;
}

void launch_rows(const LossArguments& a, int64_t rows, bool half) {
  const dim3 grid(static_cast<unsigned>(rows)), block(kLossThreads);
  const bool four = a.vocabulary % 4 == 0;
  if (four && half) launch("linearCrossEntropy", cross_entropy_kernel<true, true>, grid, block, 0, a);
  else if (four) launch("linearCrossEntropy", cross_entropy_kernel<true, false>, grid, block, 0, a);
  else if (half) launch("linearCrossEntropy", cross_entropy_kernel<false, true>, grid, block, 0, a);
  else launch("linearCrossEntropy", cross_entropy_kernel<false, false>, grid, block, 0, a);
}

void linearCrossEntropy(Out losses, Out correct, OptionalOut dx, OptionalOut dw, In x, In w, In targets,
                        OptionalIn row_scale, float grad_scale) {
  const int64_t rows = x.dims[0], vocabulary = w.dims[0];
  if (rows == 0) return;
  const int64_t most = kChunkLogits / vocabulary / kRowStep * kRowStep, chunk = most < kRowStep ? kRowStep : most;
  const int64_t chunk_rows = rows < chunk ? rows : chunk;
  const bool gradient = dx || dw, half = x.dtype == DType::bf16 && w.dtype == DType::bf16;
  const Scratch logits(chunk_rows * vocabulary * 4), rounded(gradient && half ? chunk_rows * vocabulary * 2 : 4);
  void* slopes = half ? rounded.as<void>() : logits.as<void>();
  for (int64_t first = 0; first < rows; first += chunk_rows) {
    const int64_t count = rows - first < chunk_rows ? rows - first : chunk_rows;
    const Tensor l = matrix(logits.as<void>(), count, vocabulary, DType::f32);
    const Tensor g = matrix(slopes, count, vocabulary, half ? DType::bf16 : DType::f32);
    const Tensor x_rows = rows_of(x, first, count);
    multiply(l, x_rows, w, false, true, 1.0f, 0.0f);
    const LossArguments a = {logits.as<float>(), gradient ? slopes : nullptr, f32_data(losses) + first,
                             static_cast<int*>(correct.data) + first, i32_data(targets) + first,
                             row_scale ? f32_data(*row_scale) + first : nullptr, vocabulary, grad_scale};
    launch_rows(a, count, half);
    if (dx) multiply(rows_of(*dx, first, count), g, w, false, false, 1.0f, 0.0f);
    if (dw) multiply(*dw, g, x_rows, true, false, 1.0f, 1.0f);
  }
}

}  // namespace

void add_cross_entropy(Ops& t) { t.linearCrossEntropy = linearCrossEntropy; }

}  // namespace lathe::cuda
