// Elementwise ops and bias: memory-bound, so one pass each, split into fixed chunks.
#include "ops_parts.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

/// f(i, n) over all vectors of `count` elements, on all threads.
template <class F>
void each_parallel(int64_t count, const F& f) {
  parallel_ranges(count, kElementGrain, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int n) { f(begin + i, n); });
  });
}

void fill(Out x, double value) {
  const int64_t count = element_count(x);
  if (x.dtype == DType::i32) {
    auto* data = static_cast<int32_t*>(x.data);
    for (int64_t i = 0; i < count; i++) data[i] = static_cast<int32_t>(value);
    return;
  }
  const FloatRef rx(x);
  const VF v = vset(static_cast<float>(value));
  each_parallel(count, [&](int64_t i, int n) { store(rx, i, v, n); });
}

void copy(Out dst, In src) {
  char* to = static_cast<char*>(dst.data);
  const char* from = static_cast<const char*>(src.data);
  parallel_ranges(byte_count(dst), 65536, [&](int64_t begin, int64_t end) {
    __builtin_memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
  });
}

void cast(Out dst, In src) {
  const FloatRef to(dst), from(src);
  each_parallel(element_count(dst), [&](int64_t i, int n) { store(to, i, load(from, i, n), n); });
}

void add(Out out, In a, In b) {
  const FloatRef ro(out), ra(a), rb(b);
  each_parallel(element_count(out), [&](int64_t i, int n) { store(ro, i, load(ra, i, n) + load(rb, i, n), n); });
}

void axpy(Out y, float alpha, In x) {
  const FloatRef ry(y), rx(x);
  const VF va = vset(alpha);
  each_parallel(element_count(y), [&](int64_t i, int n) { store(ry, i, fma(va, load(rx, i, n), load(ry, i, n)), n); });
}

void scale(Out y, float alpha) {
  const FloatRef ry(y);
  const VF va = vset(alpha);
  each_parallel(element_count(y), [&](int64_t i, int n) { store(ry, i, va * load(ry, i, n), n); });
}

void addBias(Out y, In b) {
  const int64_t rows = y.dims[0], columns = y.dims[1];
  const FloatRef ry(y), rb(b);
  parallel_ranges(rows, rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      const FloatRef row = ry.at(t * columns);
      each_vector(columns, [&](int64_t c, int n) { store(row, c, load(row, c, n) + load(rb, c, n), n); });
    }
  });
}

// Forward: y[t,c] += b[c]. A task owns a block of columns and walks t in order.
void biasBackward(Out db, In dy) {
  const int64_t rows = dy.dims[0], columns = dy.dims[1];
  const FloatRef rdy(dy), rdb(db);
  parallel_ranges(columns, 64, [&](int64_t begin, int64_t end) {
    each_vector(end - begin, [&](int64_t i, int n) {
      VF sum = {};
      for (int64_t t = 0; t < rows; t++) sum += load(rdy, t * columns + begin + i, n);
      store(rdb, begin + i, load(rdb, begin + i, n) + sum, n);
    });
  });
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

}  // namespace lathe::LATHE_ISA
