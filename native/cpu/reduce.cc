// Whole-tensor reductions: fixed chunks, partial results added in order.
#include "ops_parts.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kChunk = 4096;

typedef double VD __attribute__((vector_size(W * 8)));

/// Σ x² of one chunk: products and sums in f64, lanes then added in order.
double chunk_sum_squares(FloatRef r, int64_t count) {
  VD sum = {};
  each_vector(count, [&](int64_t i, int n) {
    const VD x = __builtin_convertvector(load(r, i, n), VD);
    sum += x * x;
  });
  double total = 0;
  for (int i = 0; i < W; i++) total += sum[i];
  return total;
}

double sumSquares(In x) {
  const int64_t count = element_count(x);
  const int64_t chunks = (count + kChunk - 1) / kChunk;
  const FloatRef r(x);
  const Scratch partial(chunks * 8);
  auto* sums = reinterpret_cast<double*>(partial.bytes());
  parallel_ranges(chunks, 4, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      sums[c] = chunk_sum_squares(r.at(c * kChunk), min(kChunk, count - c * kChunk));
    }
  });
  double total = 0;
  for (int64_t c = 0; c < chunks; c++) total += sums[c];
  return total;
}

bool hasNonFinite(In x) {
  const int64_t count = element_count(x);
  const int64_t chunks = (count + kElementGrain - 1) / kElementGrain;
  const FloatRef r(x);
  const Scratch partial(chunks);
  char* found = partial.bytes();
  parallel_ranges(count, kElementGrain, [&](int64_t begin, int64_t end) {
    VU bad = {};
    each_vector(end - begin, [&](int64_t i, int n) {
      bad |= (VU)(((VU)load(r, begin + i, n) & 0x7F800000u) == vuset(0x7F800000u));
    });
    uint32_t any = 0;
    for (int i = 0; i < W; i++) any |= bad[i];
    found[begin / kElementGrain] = any != 0;
  });
  for (int64_t c = 0; c < chunks; c++) {
    if (found[c]) return true;
  }
  return false;
}

}  // namespace

void add_reduce(Ops& t) {
  t.sumSquares = sumSquares;
  t.hasNonFinite = hasNonFinite;
}

}  // namespace lathe::LATHE_ISA
