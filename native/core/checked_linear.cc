// Argument checks of gemm, packed weights and the loss head; puts the checked table together.
#include <cstring>

#include "check.h"
#include "checked.h"
#include "dispatch.h"

namespace lathe {
namespace {

void gemm(Out c, In a, In b, bool transA, bool transB, float alpha, float beta) {
  expect(a, "a", kFloat, {kAnySize, kAnySize});
  const int64_t m = a.dims[transA ? 1 : 0], k = a.dims[transA ? 0 : 1];
  expect(b, "b", kFloat, {transB ? kAnySize : k, transB ? k : kAnySize});
  expect_out(c, "c", kFloat, {m, b.dims[transB ? 0 : 1]});
  expect_disjoint(c, "c", a, "a");
  expect_disjoint(c, "c", b, "b");
  ops_for(c.device).gemm(c, a, b, transA, transB, alpha, beta);
}

void packWeight(Out packed, In w) {
  expect(w, "w", kFloat, {kAnySize, kAnySize});
  expect_out(packed, "packed", kU8, {packed_bytes(w)});
  expect_disjoint(packed, "packed", w, "w");
  ops_for(w.device).packWeight(packed, w);
}

void packWeightInt8(Out packed, In w) {
  expect(w, "w", kFloat, {kAnySize, kAnySize});
  expect_that(w.device == Device::cpu, "w", "int8 weights are for the CPU");
  expect_that(w.dims[1] <= kInt8MostDepth, "w", "has rows longer than 131072, whose sums could overflow");
  expect_out(packed, "packed", kU8, {packed_int8_bytes(w)});
  expect_disjoint(packed, "packed", w, "w");
  ops_for(w.device).packWeightInt8(packed, w);
}

void gemmPacked(Out c, In a, In packed, float alpha, float beta) {
  const PackedHeader header = expect_packed(packed, "packed");
  expect(a, "a", kFloat, {kAnySize, header.k});
  expect_out(c, "c", kFloat, {a.dims[0], header.n});
  expect_disjoint(c, "c", a, "a");
  expect_disjoint(c, "c", packed, "packed");
  ops_for(c.device).gemmPacked(c, a, packed, alpha, beta);
}

void linearCrossEntropy(Out losses, Out correct, OptionalOut dx, OptionalOut dw, In x, In w, In targets,
                        OptionalIn rowScale, float gradScale) {
  expect(x, "x", kFloat, {kAnySize, kAnySize});
  const int64_t n = x.dims[0], channels = x.dims[1];
  expect(w, "w", kFloat, {kAnySize, channels});
  expect(targets, "targets", kI32, {n});
  expect_indices(targets, "targets", w.dims[0]);
  expect_out(losses, "losses", kF32, {n});
  expect_out(correct, "correct", kI32, {n});
  expect_disjoint(losses, "losses", correct, "correct");
  if (rowScale) {
    expect(*rowScale, "rowScale", kF32, {n});
    expect_disjoint(losses, "losses", *rowScale, "rowScale");
    expect_disjoint(correct, "correct", *rowScale, "rowScale");
    if (dx) expect_disjoint(*dx, "dx", *rowScale, "rowScale");
    if (dw) expect_disjoint(*dw, "dw", *rowScale, "rowScale");
  }
  if (dx) {
    expect_out(*dx, "dx", kFloat, {n, channels});
    expect_disjoint(*dx, "dx", x, "x");
    expect_disjoint(*dx, "dx", w, "w");
    if (dw) expect_disjoint(*dx, "dx", *dw, "dw");
  }
  if (dw) {
    expect_out(*dw, "dw", kF32, {w.dims[0], channels});
    expect_disjoint(*dw, "dw", x, "x");
    expect_disjoint(*dw, "dw", w, "w");
  }
  ops_for(x.device).linearCrossEntropy(losses, correct, dx, dw, x, w, targets, rowScale, gradScale);
}

}  // namespace

void add_checked_linear(Ops& t) {
  t.gemm = gemm;
  t.packWeight = packWeight;
  t.packWeightInt8 = packWeightInt8;
  t.gemmPacked = gemmPacked;
  t.linearCrossEntropy = linearCrossEntropy;
}

PackedHeader expect_packed(In packed, const char* name) {
  expect(packed, name, kU8, {kAnySize});
  PackedHeader header = {};
  const char* bytes = packed.dims[0] >= kPackedHeaderBytes ? host_bytes(packed, kPackedHeaderBytes) : nullptr;
  if (bytes) std::memcpy(&header, bytes, sizeof header);
  const bool known = header.magic == kPackedMagic && header.dtype != DType::i32 && header.n >= 0 && header.k >= 0;
  if (known) {
    const Tensor shape = {nullptr, {header.n, header.k}, 2, header.dtype, packed.device, false};
    const bool int8 = header.dtype == DType::u8;
    if ((int8 ? packed_int8_bytes(shape) : packed_bytes(shape)) == packed.dims[0]) return header;
  }
  invalid(name, "is not the result of packWeight");
}

int64_t packed_int8_bytes(In w) {
  const int64_t panels = w.dims[0] / kPanelWidth + (w.dims[0] % kPanelWidth != 0);
  const int64_t rows = checked_mul(panels, kPanelWidth);
  const int64_t depth = checked_mul(w.dims[1] / kInt8Fill + (w.dims[1] % kInt8Fill != 0), kInt8Fill);
  return checked_mul(rows, depth) + checked_mul(rows, 4) + kPackedHeaderBytes;
}

int64_t packed_bytes(In w) {
  const int64_t panels = w.dims[0] / kPanelWidth + (w.dims[0] % kPanelWidth != 0);
  const int64_t depth = w.dims[1] + (w.dtype == DType::bf16 ? w.dims[1] & 1 : 0);
  const int64_t bytes = checked_mul(checked_mul(panels, kPanelWidth), checked_mul(depth, dtype_bytes(w.dtype)));
  return bytes + kPackedHeaderBytes;
}

const Ops& checked_ops() {
  static const Ops table = [] {
    Ops t = {};
    add_checked_elementwise(t);
    add_checked_linear(t);
    add_checked_lora(t);
    add_checked_model(t);
    add_checked_attention(t);
    add_checked_serving(t);
    return t;
  }();
  return table;
}

}  // namespace lathe
