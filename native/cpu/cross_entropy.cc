// Language-model head and cross-entropy in one op: logits exist for one chunk of rows at a time.
#include "gemm.h"
#include "ops_parts.h"
#include "parallel.h"
#include "vector_math.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kChunkLogits = 4 << 20;  // logits of a chunk: 16 MB of f32
constexpr int64_t kMinChunkRows = 256;     // enough rows to pay for packing w again

struct Row {
  float maximum, sum, target_logit;
  bool correct;
};

/// Index of the first logit equal to `value`.
int64_t first_equal(const float* logits, int64_t vocabulary, float value) {
  int64_t i = 0;
  for (; i + W <= vocabulary; i += W) {
    const VI same = vload(logits + i) == vset(value);
    int32_t any = 0;
    for (int j = 0; j < W; j++) any |= same[j];
    if (any) break;
  }
  while (i < vocabulary && logits[i] != value) i++;
  return i;
}

/// Statistics of one row; its logits become e^(logit − maximum).
Row softmax_row(float* logits, int64_t vocabulary, int32_t target) {
  Row row = {0, 0, logits[target], false};
  VF best = vset(-__builtin_inff());
  each_vector(vocabulary, [&](int64_t i, int n) {
    VF x = vload_n(logits + i, n);
    for (int j = n; j < W; j++) x[j] = -__builtin_inff();
    best = vmax(best, x);
  });
  row.maximum = vmax_lane(best);
  row.correct = row.target_logit == row.maximum && first_equal(logits, vocabulary, row.maximum) == target;
  VF sum = {};
  each_vector(vocabulary, [&](int64_t i, int n) {
    VF e = vexp(vload_n(logits + i, n) - row.maximum);
    vstore_n(logits + i, e, n);
    for (int j = n; j < W; j++) e[j] = 0;
    sum += e;
  });
  row.sum = vsum(sum);
  return row;
}

// Forward: loss = log Σ e^logit − logit_target, so dlogit = (softmax − onehot)·grad_scale, in place when f32.
void row_gradient(FloatRef dlogits, const float* weights, int64_t vocabulary, int32_t target, const Row& row,
                  float grad_scale) {
  const VF factor = vset(grad_scale / row.sum);
  const float at_target = (weights[target] / row.sum - 1.0f) * grad_scale;
  each_vector(vocabulary, [&](int64_t i, int n) { store(dlogits, i, vload_n(weights + i, n) * factor, n); });
  store(dlogits, target, vset(at_target), 1);
}

struct Head {
  const Tensor &losses, &correct, &x, &w;
  const int32_t* targets;
  OptionalOut dx, dw;
  const float* row_scale;  // null: all 1
  float grad_scale;
};

void chunk(const Head& h, int64_t first, int64_t rows, float* logits, char* dlogits, bool half) {
  const int64_t channels = h.x.dims[1], vocabulary = h.w.dims[0];
  const FloatRef x = FloatRef(h.x).at(first * channels), w(h.w);
  const FloatRef l(reinterpret_cast<char*>(logits), false), dl(dlogits, half);
  multiply({l, vocabulary, 1, 1.0f, 0.0f}, {x, channels, 1}, {w, channels, 1}, rows, vocabulary, channels);
  parallel_ranges(rows, rows_per_task(vocabulary), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      float* row_logits = logits + i * vocabulary;
      const int32_t target = h.targets[first + i];
      const Row row = softmax_row(row_logits, vocabulary, target);
      f32_data(h.losses)[first + i] = row.maximum + log_scalar(row.sum) - row.target_logit;
      static_cast<int32_t*>(h.correct.data)[first + i] = row.correct;
      const float scale = h.row_scale ? h.grad_scale * h.row_scale[first + i] : h.grad_scale;
      if (h.dx || h.dw) row_gradient(dl.at(i * vocabulary), row_logits, vocabulary, target, row, scale);
    }
  });
  if (h.dx) {
    const FloatRef dx = FloatRef(*h.dx).at(first * channels);
    multiply({dx, channels, 1, 1.0f, 0.0f}, {dl, vocabulary, 1}, {w, 1, channels}, rows, channels, vocabulary);
  }
  if (h.dw) {
    multiply({*h.dw, channels, 1, 1.0f, 1.0f}, {dl, 1, vocabulary}, {x, 1, channels}, vocabulary, channels, rows);
  }
}

void linearCrossEntropy(Out losses, Out correct, OptionalOut dx, OptionalOut dw, In x, In w, In targets,
                        OptionalIn row_scale, float grad_scale) {
  const int64_t rows = x.dims[0], vocabulary = w.dims[0];
  if (rows == 0) return;
  const int64_t chunk_rows = min(rows, max(kMinChunkRows, kChunkLogits / vocabulary));
  const bool half = x.dtype == DType::bf16 && w.dtype == DType::bf16;
  const Scratch logits(chunk_rows * vocabulary * 4);
  const Scratch rounded(half && (dx || dw) ? chunk_rows * vocabulary * 2 : 0);
  char* dlogits = half ? rounded.bytes() : logits.bytes();
  const float* scales = row_scale ? f32_data(*row_scale) : nullptr;
  const Head head = {losses, correct, x, w, i32_data(targets), dx, dw, scales, grad_scale};
  for (int64_t first = 0; first < rows; first += chunk_rows) {
    chunk(head, first, min(chunk_rows, rows - first), logits.floats(), dlogits, half);
  }
}

}  // namespace

void add_cross_entropy(Ops& t) { t.linearCrossEntropy = linearCrossEntropy; }

}  // namespace lathe::LATHE_ISA
