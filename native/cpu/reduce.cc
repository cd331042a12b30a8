// Whole-tensor reductions: fixed chunks, partial results added in order.
#include "ops_parts.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int64_t kChunk = 4096;
constexpr int64_t kBytesAhead = 2048;  // prefetch distance

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
  constexpr int64_t grain = 16 * kElementGrain;  // long runs: memory gives a stream that breaks off less
  const int64_t chunks = (count + grain - 1) / grain;
  const FloatRef r(x);
  const Scratch partial(chunks);
  char* found = partial.bytes();
  parallel_ranges(count, grain, [&](int64_t begin, int64_t end) {
    VU bad = {};
    const auto look = [&](int64_t i, int n) {
      __builtin_prefetch(r.at(i).data + kBytesAhead);
      bad |= (VU)(((VU)load(r, i, n) & 0x7F800000u) == vuset(0x7F800000u));
    };
    // Two halves side by side: two streams come sooner than one.
    const int64_t half = (end - begin) / 2 / W * W;
    for (int64_t i = begin; i < begin + half; i += W) {
      look(i, W);
      look(i + half, W);
    }
    each_vector(end - begin - 2 * half, [&](int64_t i, int n) { look(begin + 2 * half + i, n); });
    uint32_t any = 0;
    for (int i = 0; i < W; i++) any |= bad[i];
    found[begin / grain] = any != 0;
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
