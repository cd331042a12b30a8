// Argument checks of the serving ops; each then runs the device's entry.
#include "check.h"
#include "checked.h"
#include "dispatch.h"
#include "sampling.h"

namespace lathe {
namespace {

constexpr int64_t kMostRank = 256;

/// Every entry of the slot table inside the pool; slots in [−1, rows of the table).
void expect_adapters(In pool, In table, In slots, In x, const int64_t* widths, int64_t layers) {
  expect(pool, "pool", kFloat, {kAnySize});
  expect(table, "table", kI32, {kAnySize, layers, 4});
  expect(slots, "slots", kI32, {x.dims[0]});
  const IndexValues chosen(slots), entries(table);
  for (int64_t t = 0; chosen.known() && t < x.dims[0]; t++) {
    expect_that(chosen[t] >= -1 && chosen[t] < table.dims[0], "slots", "names a row outside the table");
  }
  for (int64_t i = 0; entries.known() && i < table.dims[0] * layers; i++) {
    const int64_t a = entries[i * 4], b = entries[i * 4 + 1], rank = entries[i * 4 + 2];
    expect_that(rank >= 0 && rank <= kMostRank && rank % 8 == 0, "table", "ranks are multiples of 8 in [0,256]");
    if (rank == 0) continue;
    expect_that(a >= 0 && rank * x.dims[1] <= pool.dims[0] - a * 8, "table", "A reaches beyond the pool");
    expect_that(b >= 0 && rank * widths[i % layers] <= pool.dims[0] - b * 8, "table", "B reaches beyond the pool");
  }
}

/// Rows of a weight [N, depth], plain or, on the CPU, packed.
int64_t expect_weight(In w, const char* name, int64_t depth) {
  if (w.dtype != DType::u8 || w.device != Device::cpu) {
    expect(w, name, kFloat, {kAnySize, depth});
    return w.dims[0];
  }
  const PackedHeader header = expect_packed(w, name);
  expect_that(header.k == depth, name, "was packed from rows of another length than x has");
  return header.n;
}

void linearGroup(Out y0, OptionalOut y1, OptionalOut y2, In x, In w0, OptionalIn w1, OptionalIn w2, OptionalIn bias0,
                 OptionalIn bias1, OptionalIn bias2, OptionalIn pool, OptionalIn table, OptionalIn slots) {
  const Tensor *ys[] = {&y0, y1, y2}, *ws[] = {&w0, w1, w2}, *biases[] = {bias0, bias1, bias2};
  const char* const y_names[] = {"y0", "y1", "y2"};
  const char* const w_names[] = {"w0", "w1", "w2"};
  const char* const bias_names[] = {"bias0", "bias1", "bias2"};
  expect(x, "x", kFloat, {kAnySize, kAnySize});
  expect_that(w1 || !w2, "w1", "layer 2 needs layer 1");
  const int64_t layers = w2 ? 3 : w1 ? 2 : 1;
  int64_t widths[3] = {};
  for (int i = 0; i < 3; i++) {
    if (i >= layers) {
      expect_that(!ys[i], y_names[i], "has no weight");
      expect_that(!biases[i], bias_names[i], "has no weight");
      continue;
    }
    widths[i] = expect_weight(*ws[i], w_names[i], x.dims[1]);
    expect_that(ys[i] != nullptr, y_names[i], "is missing");
    expect_out(*ys[i], y_names[i], kFloat, {x.dims[0], widths[i]});
    if (biases[i]) expect(*biases[i], bias_names[i], kFloat, {widths[i]});
  }
  expect_that(!pool == !table && !table == !slots, "pool", "pool, table and slots come together");
  if (pool) expect_adapters(*pool, *table, *slots, x, widths, layers);
  for (int i = 0; i < layers; i++) {
    for (const Tensor* in : {&x, &w0, w1, w2, bias0, bias1, bias2, pool, table, slots}) {
      if (in) expect_disjoint(*ys[i], y_names[i], *in, "an input");
    }
    for (int j = 0; j < i; j++) expect_disjoint(*ys[i], y_names[i], *ys[j], y_names[j]);
  }
  ops_for(x.device).linearGroup(y0, y1, y2, x, w0, w1, w2, bias0, bias1, bias2, pool, table, slots);
}

/// Rows of counts and mask that the settings name; no two rows of logits count into the same one.
void expect_settings(In floats, In ints, OptionalOut counts, OptionalIn mask, int64_t rows) {
  using namespace sampling;
  expect(floats, "floats", kF32, {rows, kFloatColumns});
  expect(ints, "ints", kI32, {rows, kIntColumns});
  const IndexValues values(ints);
  std::vector<bool> used(counts ? counts->dims[0] : 0);
  for (int64_t i = 0; values.known() && i < rows; i++) {
    const auto at = [&](int column) { return values[i * kIntColumns + column]; };
    expect_that(at(kTopK) >= 0, "ints", "topK must not be negative");
    expect_that(at(kStep) >= 0, "ints", "step must not be negative");
    expect_that(at(kMaskRow) >= -1 && at(kMaskRow) < (mask ? mask->dims[0] : 0), "ints", "names no row of mask");
    const int64_t row = at(kCountsRow);
    expect_that(row >= -1 && row < static_cast<int64_t>(used.size()), "ints", "names no row of counts");
    if (row < 0) continue;
    expect_that(!used[row], "ints", "names a row of counts twice");
    used[row] = true;
  }
}

void sampleTokens(Out tokens, OptionalOut logprobs, OptionalOut topTokens, Out logits, In floats, In ints,
                  OptionalIn biasOffsets, OptionalIn biasTokens, OptionalIn biasValues, OptionalOut counts,
                  OptionalIn mask, int64_t vocabulary) {
  expect_out(logits, "logits", kF32, {kAnySize, kAnySize});
  const int64_t rows = logits.dims[0];
  expect_that(vocabulary >= 1 && vocabulary <= logits.dims[1] && vocabulary <= (1 << 20), "vocabulary",
              "must be in [1, columns of logits] and at most 2^20");
  expect_out(tokens, "tokens", kI32, {rows});
  expect_that(!logprobs == !topTokens, "topTokens", "logprobs and topTokens come together");
  if (logprobs) {
    expect_out(*topTokens, "topTokens", kI32, {rows, kAnySize});
    expect_that(topTokens->dims[1] <= vocabulary, "topTokens", "asks for more tokens than there are");
    expect_out(*logprobs, "logprobs", kF32, {rows, topTokens->dims[1] + 1});
  }
  expect_that(!biasOffsets == !biasTokens && !biasTokens == !biasValues, "biasOffsets",
              "biasOffsets, biasTokens and biasValues come together");
  if (biasOffsets) {
    expect(*biasOffsets, "biasOffsets", kI32, {rows + 1});
    expect(*biasTokens, "biasTokens", kI32, {kAnySize});
    expect(*biasValues, "biasValues", kF32, {biasTokens->dims[0]});
    expect_offsets(*biasOffsets, "biasOffsets", biasTokens->dims[0]);
    expect_indices(*biasTokens, "biasTokens", vocabulary);
  }
  if (counts) expect_out(*counts, "counts", kI32, {kAnySize, logits.dims[1]});
  if (mask) expect(*mask, "mask", kI32, {kAnySize, (vocabulary + 31) / 32});
  expect_settings(floats, ints, counts, mask, rows);
  const Tensor* const outs[] = {&tokens, logprobs, topTokens, &logits, counts};
  const Tensor* const ins[] = {&floats, &ints, biasOffsets, biasTokens, biasValues, mask};
  for (int i = 0; i < 5; i++) {
    for (int j = 0; outs[i] && j < i; j++) {
      if (outs[j]) expect_disjoint(*outs[i], "tokens", *outs[j], "another output");
    }
    for (const Tensor* in : ins) {
      if (outs[i] && in) expect_disjoint(*outs[i], "tokens", *in, "an input");
    }
  }
  ops_for(logits.device)
      .sampleTokens(tokens, logprobs, topTokens, logits, floats, ints, biasOffsets, biasTokens, biasValues, counts,
                    mask, vocabulary);
}

}  // namespace

void add_checked_serving(Ops& t) {
  t.linearGroup = linearGroup;
  t.sampleTokens = sampleTokens;
}

}  // namespace lathe
