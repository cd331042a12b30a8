// Row lookups and their backward.
#include "ops_parts.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

void copy_row(FloatRef to, FloatRef from, int64_t columns) {
  if (to.half == from.half) {
    __builtin_memcpy(to.data, from.data, static_cast<size_t>(columns * (to.half ? 2 : 4)));
    return;
  }
  each_vector(columns, [&](int64_t c, int n) { store(to, c, load(from, c, n), n); });
}

void add_row(FloatRef to, FloatRef from, int64_t columns) {
  each_vector(columns, [&](int64_t c, int n) { store(to, c, load(to, c, n) + load(from, c, n), n); });
}

/// out[i] = table[rows[i]].
void gather(Out out, In source, In rows) {
  const int64_t columns = out.dims[1];
  const FloatRef to(out), from(source);
  const int32_t* row = i32_data(rows);
  parallel_ranges(out.dims[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) copy_row(to.at(i * columns), from.at(row[i] * columns), columns);
  });
}

void embeddingForward(Out out, In weight, In ids) { gather(out, weight, ids); }

// Forward: out[t] = weight[ids[t]]. Ids repeat, so a task owns a block of columns and adds in the order of t.
void embeddingBackward(Out dw, In dout, In ids) {
  const int64_t rows = dout.dims[0], columns = dout.dims[1];
  const FloatRef to(dw), from(dout);
  const int32_t* id = i32_data(ids);
  parallel_ranges(columns, 64, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < rows; t++) {
      add_row(to.at(id[t] * columns + begin), from.at(t * columns + begin), end - begin);
    }
  });
}

void gatherRows(Out out, In x, In rows) { gather(out, x, rows); }

// Forward: out[i] = x[rows[i]], rows distinct.
void scatterAddRows(Out dx, In dout, In rows) {
  const int64_t columns = dout.dims[1];
  const FloatRef to(dx), from(dout);
  const int32_t* row = i32_data(rows);
  parallel_ranges(dout.dims[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) add_row(to.at(row[i] * columns), from.at(i * columns), columns);
  });
}

void kvWrite(Out k_cache, Out v_cache, In k, In v, In slots) {
  const int64_t columns = k.dims[1];
  const FloatRef to_k(k_cache), to_v(v_cache), from_k(k), from_v(v);
  const int32_t* slot = i32_data(slots);
  parallel_ranges(k.dims[0], rows_per_task(columns), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) {
      copy_row(to_k.at(slot[t] * columns), from_k.at(t * columns), columns);
      copy_row(to_v.at(slot[t] * columns), from_v.at(t * columns), columns);
    }
  });
}

}  // namespace

void add_embedding(Ops& t) {
  t.embeddingForward = embeddingForward;
  t.embeddingBackward = embeddingBackward;
  t.gatherRows = gatherRows;
  t.scatterAddRows = scatterAddRows;
  t.kvWrite = kvWrite;
}

}  // namespace lathe::LATHE_ISA
