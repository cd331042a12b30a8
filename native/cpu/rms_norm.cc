// RMSNorm, forward and backward; statistics in f32 per row.
#include "ops_parts.h"
#include "parallel.h"
#include "vector_math.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kChain = 64 * W;  // columns of one chain of sums: a long one loses digits (4e-6 of rstd at 16,640)

/// 1/√(mean x² + eps) of one row.
float inverse_rms(FloatRef x, int64_t columns, float eps) {
  VF sum = {};
  for (int64_t first = 0; first < columns; first += kChain) {
    const FloatRef part = x.at(first);
    VF squares = {};
    each_vector(min(kChain, columns - first), [&](int64_t c, int n) {
      const VF v = load(part, c, n);
      squares = fma(v, v, squares);
    });
    sum = sum + squares;
  }
  return (vset(1.0f) / vsqrt(vset(vsum(sum) / static_cast<float>(columns) + eps)))[0];
}

void normalise(FloatRef y, FloatRef x, FloatRef w, float rstd, int64_t columns) {
  each_vector(columns, [&](int64_t c, int n) { store(y, c, load(x, c, n) * rstd * load(w, c, n), n); });
}

void rmsNormForward(Out y, Out rstd, In x, In w, float eps) {
  const int64_t rows = x.dims[0], columns = x.dims[1];
  const FloatRef ry(y), rx(x), rw(w);
  float* inverse = f32_data(rstd);
  parallel_ranges(rows, fine_rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const FloatRef row = rx.at(t * columns);
      inverse[t] = inverse_rms(row, columns, eps);
      normalise(ry.at(t * columns), row, rw, inverse[t], columns);
    }
  });
}

void addRmsNormForward(Out y, Out z, Out rstd, In x, In delta, In w, float eps) {
  const int64_t rows = x.dims[0], columns = x.dims[1];
  const FloatRef ry(y), rz(z), rx(x), rdelta(delta), rw(w);
  float* inverse = f32_data(rstd);
  parallel_ranges(rows, fine_rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const FloatRef sum = rz.at(t * columns), a = rx.at(t * columns), b = rdelta.at(t * columns);
      each_vector(columns, [&](int64_t c, int n) { store(sum, c, load(a, c, n) + load(b, c, n), n); });
      // The statistics are of z as stored: the backward sees no other.
      inverse[t] = inverse_rms(sum, columns, eps);
      normalise(ry.at(t * columns), sum, rw, inverse[t], columns);
    }
  });
}

struct BackwardRow {
  FloatRef dx, dy, x, w;
  const FloatRef* dres;
  float rstd;
};

// Forward: y = x̂·w, x̂ = x·rstd. With g = dy·w: dx = rstd·(g − x̂·mean(g·x̂)) + dres, dw += dy·x̂.
void backward_row(const BackwardRow& r, int64_t columns, float* dw) {
  VF dot = {};
  each_vector(columns, [&](int64_t c, int n) {
    const VF normal = load(r.x, c, n) * r.rstd, dy = load(r.dy, c, n);
    dot = fma(dy * load(r.w, c, n), normal, dot);
    if (dw) {
      const FloatRef rdw(reinterpret_cast<char*>(dw), false);
      store(rdw, c, fma(dy, normal, load(rdw, c, n)), n);
    }
  });
  const float mean = vsum(dot) / static_cast<float>(columns);
  each_vector(columns, [&](int64_t c, int n) {
    const VF normal = load(r.x, c, n) * r.rstd;
    const VF g = load(r.dy, c, n) * load(r.w, c, n);
    VF dx = fma(normal, vset(-mean), g) * r.rstd;
    if (r.dres) dx += load(*r.dres, c, n);
    store(r.dx, c, dx, n);
  });
}

void rmsNormBackward(Out dx, OptionalOut dw, In dy, In x, In w, In rstd, OptionalIn dres) {
  const int64_t rows = x.dims[0], columns = x.dims[1];
  const int64_t grain = rows_per_task(columns), chunks = (rows + grain - 1) / grain;
  const FloatRef rdx(dx), rdy(dy), rx(x), rw(w);
  const Scratch partial(dw ? chunks * columns * 4 : 0);  // one dw per chunk of rows, added in order below
  parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
    float* sum = dw ? partial.floats() + begin / grain * columns : nullptr;
    for (int64_t c = 0; sum && c < columns; c++) sum[c] = 0;
    for (int64_t t = begin; t < end; t++) {
      const int64_t o = t * columns;
      const FloatRef bypass = dres ? FloatRef(*dres).at(o) : rdx;
      backward_row({rdx.at(o), rdy.at(o), rx.at(o), rw, dres ? &bypass : nullptr, f32_data(rstd)[t]}, columns, sum);
    }
  });
  if (!dw) return;
  float* total = f32_data(*dw);
  for (int64_t chunk = 0; chunk < chunks; chunk++) {
    for (int64_t c = 0; c < columns; c++) total[c] += partial.floats()[chunk * columns + c];
  }
}

}  // namespace

void add_rms_norm(Ops& t) {
  t.rmsNormForward = rmsNormForward;
  t.rmsNormBackward = rmsNormBackward;
  t.addRmsNormForward = addRmsNormForward;
}

}  // namespace lathe::LATHE_ISA
