// Language-model head and cross-entropy in one op: logits exist for one chunk of rows at a time.
#include "gemm.h"
#include "ops_parts.h"
#include "parallel.h"
#include "vector_math.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kChunkLogits = 4 << 20;  // logits of a chunk: 16 MB of f32
constexpr int64_t kMinChunkRows = 256;     // enough rows to pay for packing w again
constexpr int64_t kSlabRows = 8192;        // rows of w that the backward takes at a time: packed, they stay in cache

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

// Forward: loss = log Σ e^logit − logit_target, so dlogit = (softmax − onehot)·grad_scale; columns [begin, end) of it.
void row_gradient(FloatRef dlogits, const float* weights, int64_t begin, int64_t end, int32_t target, const Row& row,
                  float grad_scale) {
  const VF factor = vset(grad_scale / row.sum);
  const bool here = target >= begin && target < end;
  const float at_target = here ? (weights[target] / row.sum - 1.0f) * grad_scale : 0;
  each_vector(end - begin, [&](int64_t i, int n) { store(dlogits, i, vload_n(weights + begin + i, n) * factor, n); });
  if (here) store(dlogits, target - begin, vset(at_target), 1);
}

struct Head {
  const Tensor &losses, &correct, &x, &w;
  const int32_t* targets;
  OptionalOut dx, dw;
  const float* row_scale;  // null: all 1
  float grad_scale;
};

/// Room for one chunk of rows.
struct Room {
  float* logits;   // [rows, V], then e^(logit − maximum)
  Row* rows;
  char* dlogits;   // bf16 [rows, kSlabRows], or null: f32, in the place of the logits
  float* dx;       // f32 [rows, C], or null: the sums go to dx itself
};

/// Losses of rows [first, first + rows); leaves the weights of the softmax in room.logits.
void chunk_losses(const Head& h, int64_t first, int64_t rows, const Room& room) {
  const int64_t channels = h.x.dims[1], vocabulary = h.w.dims[0];
  const FloatRef logits(reinterpret_cast<char*>(room.logits), false);
  multiply({logits, vocabulary, 1, 1.0f, 0.0f}, {FloatRef(h.x).at(first * channels), channels, 1},
           {FloatRef(h.w), channels, 1}, rows, vocabulary, channels);
  parallel_ranges(rows, rows_per_task(vocabulary), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const Row row = softmax_row(room.logits + i * vocabulary, vocabulary, h.targets[first + i]);
      f32_data(h.losses)[first + i] = row.maximum + log_scalar(row.sum) - row.target_logit;
      static_cast<int32_t*>(h.correct.data)[first + i] = row.correct;
      room.rows[i] = row;
    }
  });
}

/// dlogits, then dx = dlogits·w and dw += dlogitsᵀ·x, a slab of w's rows at a time: as one product over the whole
/// vocabulary, w would be read in slivers of a few columns.
void chunk_gradients(const Head& h, int64_t first, int64_t rows, const Room& room) {
  const int64_t channels = h.x.dims[1], vocabulary = h.w.dims[0];
  const FloatRef x = FloatRef(h.x).at(first * channels), w(h.w);
  const FloatRef dx = room.dx ? FloatRef(reinterpret_cast<char*>(room.dx), false)
                      : h.dx  ? FloatRef(*h.dx).at(first * channels)
                              : x;
  for (int64_t v = 0; v < vocabulary; v += kSlabRows) {
    const int64_t end = min(vocabulary, v + kSlabRows), row = room.dlogits ? kSlabRows : vocabulary;
    const FloatRef dl = room.dlogits ? FloatRef(room.dlogits, true)
                                     : FloatRef(reinterpret_cast<char*>(room.logits + v), false);
    parallel_ranges(rows, rows_per_task(end - v), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; i++) {
        const float scale = h.row_scale ? h.grad_scale * h.row_scale[first + i] : h.grad_scale;
        row_gradient(dl.at(i * row), room.logits + i * vocabulary, v, end, h.targets[first + i], room.rows[i], scale);
      }
    });
    if (h.dx) {
      // As with every dx: beside weights of bf16, one bf16 of a gradient is enough.
      const Term term = {{dl, row, 1}, {w.at(v * channels), 1, channels}, end - v, 1.0f, true};
      multiply_sum({dx, channels, 1, 1.0f, v == 0 ? 0.0f : 1.0f}, &term, 1, rows, channels);
    }
    if (h.dw) {
      multiply({FloatRef(*h.dw).at(v * channels), channels, 1, 1.0f, 1.0f}, {dl, 1, row}, {x, 1, channels}, end - v,
               channels, rows);
    }
  }
  if (!room.dx || !h.dx) return;
  const FloatRef to = FloatRef(*h.dx).at(first * channels);
  parallel_ranges(rows * channels, kElementGrain, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int n) { store(to, begin + i, load(dx, begin + i, n), n); });
  });
}

void linearCrossEntropy(Out losses, Out correct, OptionalOut dx, OptionalOut dw, In x, In w, In targets,
                        OptionalIn row_scale, float grad_scale) {
  const int64_t rows = x.dims[0], channels = x.dims[1], vocabulary = w.dims[0];
  if (rows == 0) return;
  const int64_t chunk_rows = min(rows, max(kMinChunkRows, kChunkLogits / vocabulary));
  const bool half = x.dtype == DType::bf16 && w.dtype == DType::bf16, backward = dx || dw;
  const bool sums = dx && dx->dtype == DType::bf16 && vocabulary > kSlabRows;  // slabs add up in f32
  const Scratch logits(chunk_rows * vocabulary * 4), statistics(chunk_rows * static_cast<int64_t>(sizeof(Row)));
  const Scratch rounded(half && backward ? chunk_rows * kSlabRows * 2 : 0), wide(sums ? chunk_rows * channels * 4 : 0);
  const Room room = {logits.floats(), reinterpret_cast<Row*>(statistics.bytes()), half ? rounded.bytes() : nullptr,
                     sums ? wide.floats() : nullptr};
  const float* scales = row_scale ? f32_data(*row_scale) : nullptr;
  const Head head = {losses, correct, x, w, i32_data(targets), dx, dw, scales, grad_scale};
  for (int64_t first = 0; first < rows; first += chunk_rows) {
    const int64_t count = min(chunk_rows, rows - first);
    chunk_losses(head, first, count, room);
    if (backward) chunk_gradients(head, first, count, room);
  }
}

}  // namespace

void add_cross_entropy(Ops& t) { t.linearCrossEntropy = linearCrossEntropy; }

}  // namespace lathe::LATHE_ISA
