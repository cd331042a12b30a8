// Which kernel takes a product: tiles (gemm_tiles.cc), rows read in place (gemm_rows.cc) or blocks (gemm_blocks.cc). The
// product as an op, and weights packed ahead for it.
#include "gemm.h"

#include "gemm_blocks.h"
#include "gemm_finish.h"
#include "gemm_rows.h"
#include "gemm_tiles.h"
#include "ops_parts.h"
#include "packed_weight.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

Operand operand(In t, bool transposed) {
  return transposed ? Operand{FloatRef(t), 1, t.dims[1]} : Operand{FloatRef(t), t.dims[1], 1};
}

void one_term(const Product& c, const Term& term, int64_t m, int64_t n) {
  const Operand &a = term.a, &b = term.b;
  const Product turned = {c.data, c.col, c.row, c.alpha, c.beta};
  // The chain of each element is the same on every way below, and a product does not care which factor comes first.
  // Operands as linear layers have them: the larger one stays where it lies, on whichever side.
  if (in_rows(b) && (m <= n || !in_rows(a))) return multiply_rows(turned, b, a, n, m, term.k);
  if (in_rows(a) && in_rows(b)) return multiply_rows(c, a, b, m, n, term.k);
  // A thin right operand would fill its 32-wide panel with padding: let it be the left one.
  if (n <= 16 && m > n) return multiply_blocks(turned, b, a, false, n, m, term.k);
  multiply_blocks(c, a, b, false, m, n, term.k);
}

void gemm(Out c, In a, In b, bool trans_a, bool trans_b, float alpha, float beta) {
  const int64_t k = a.dims[trans_a ? 0 : 1];
  // The right operand is indexed by column of C first: not transposed means k strides over rows.
  multiply({FloatRef(c), c.dims[1], 1, alpha, beta}, operand(a, trans_a), operand(b, !trans_b), c.dims[0], c.dims[1],
           k);
}

void packWeight(Out packed, In w) {
  const int64_t n = w.dims[0], k = w.dims[1];
  __builtin_memset(packed.data, 0, kPackedHeaderBytes);
  auto* header = static_cast<PackedHeader*>(packed.data);
  *header = {kPackedMagic, n, k, w.dtype};
  auto* out = reinterpret_cast<uint32_t*>(static_cast<char*>(packed.data) + kPackedHeaderBytes);
  const bool half = w.dtype == DType::bf16;
  const PanelLayout layout = {kPanelWidth, k, half ? (k + 1) / 2 : k, half};
  parallel_ranges(n, kPanelWidth, [&](int64_t first, int64_t end) {
    pack_panel(out + first * layout.units, operand(w, false), first, end - first, kPanelWidth, layout);
  });
}

void packWeightInt8(Out packed, In w) { pack_int8(packed, w); }

void gemmPacked(Out c, In a, In packed, float alpha, float beta) {
  multiply_packed_weight({FloatRef(c), c.dims[1], 1, alpha, beta}, operand(a, false), PackedWeight(packed), a.dims[0]);
}

}  // namespace

void multiply_sum(const Product& c, const Term* terms, int count, int64_t m, int64_t n) {
  // Decided by the right operand's type alone: a row's result must not depend on how many there are.
  if constexpr (kHasTiles) {
    if (terms[0].b.data.half) return multiply_on_tiles(c, terms, count, m, n);
  }
  // Several terms meet in f32 and are rounded once.
  const bool aside = count > 1 && c.data.half;
  const Scratch room(aside ? m * n * 4 : 0);
  const Product sums = aside ? Product{{room.bytes(), false}, n, 1, 1.0f, 0.0f} : c;
  for (int t = 0; t < count; t++) {
    one_term({sums.data, sums.row, sums.col, sums.alpha * terms[t].scale, t > 0 ? 1.0f : sums.beta}, terms[t], m, n);
  }
  for (int64_t i = 0; aside && i < m; i++) {
    for (int64_t j = 0; j < n; j += kPanelWidth) {
      write_tile(c, room.floats() + i * n + j, i, 1, j, min(kPanelWidth, n - j));
    }
  }
}

void multiply_packed(const Product& c, const Operand& a, const char* panels, bool panels_half, int64_t m, int64_t n,
                     int64_t k) {
  multiply_blocks(c, a, {FloatRef(const_cast<char*>(panels), panels_half), 0, 0}, true, m, n, k);
}

void add_gemm(Ops& t) {
  t.gemm = gemm;
  t.packWeight = packWeight;
  t.packWeightInt8 = packWeightInt8;
  t.gemmPacked = gemmPacked;
}

}  // namespace lathe::LATHE_ISA
