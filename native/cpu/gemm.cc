// The matrix product as an op, and weights packed ahead for it. The work is in gemm_blocks.cc.
#include "gemm.h"

#include "ops_parts.h"
#include "packed_weight.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {
namespace {

Operand operand(In t, bool transposed) {
  return transposed ? Operand{FloatRef(t), 1, t.dims[1]} : Operand{FloatRef(t), t.dims[1], 1};
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

void add_gemm(Ops& t) {
  t.gemm = gemm;
  t.packWeight = packWeight;
  t.packWeightInt8 = packWeightInt8;
  t.gemmPacked = gemmPacked;
}

}  // namespace lathe::LATHE_ISA
