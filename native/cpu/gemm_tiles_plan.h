// What a product on AMX tiles consists of: terms in steps of k, outputs in strips of columns, blocks of both in packed form.
// Knows neither tasks nor tiles.
#pragma once
#include "gemm_tiles_pack.h"
#include "packed_weight.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)

constexpr int64_t kBlockSteps = 12;          // of a strip in L1: 24 KB; the rest is for what passes
constexpr int64_t kChunkPanels = 8;          // 32 rows each that stay in L2
constexpr int64_t kResidentBytes = 1 << 20;  // of them that a run of blocks may take
constexpr int64_t kWeaveStrips = 4;          // strips packed together where B's columns are contiguous: 256 bytes a row
constexpr int kMostTerms = 8;
constexpr int kMostOutputs = 3;

/// A term in steps. Resident bytes of a panel begin at `offset`.
struct Part {
  const Term* term;
  Form resident, streamed;
  int parts;
  int64_t first, steps, offset;

  int64_t end() const { return first + steps; }
  int64_t step_bytes() const { return parts * kStepBytes; }
};

/// Columns whose strips lie from `first` on: those of a product, or of one of several packed weights beside each other.
struct Output {
  const char* panels;
  int64_t n, first;
};

struct Plan {
  const Product* c;      // or, of packed weights,
  const Finish* finish;  // where sums go
  int64_t m, strips = 0;
  bool swapped;
  int outputs = 0;
  Output of[kMostOutputs];
  int count = 0;
  Part parts[kMostTerms];
  int64_t steps = 0, panel_bytes = 0, blocks = 1, block_steps = 0, run_blocks = 1, together = 1;

  Plan(const Product& product, const Term* terms, int term_count, int64_t rows, int64_t columns)
      : c(&product), finish(nullptr), m(rows), swapped(terms[0].b.col == 1) {
    add_output(nullptr, columns);
    divide(terms, term_count, false);
  }
  /// a by packed weights of bf16; `term` holds a and k.
  Plan(const Term& term, const PackedWeight* weights, int count_of_weights, int64_t rows, const Finish& to)
      : c(nullptr), finish(&to), m(rows), swapped(false) {
    for (int i = 0; i < count_of_weights; i++) add_output(weights[i].panels, weights[i].n);
    divide(&term, 1, true);
  }

  void add_output(const char* panels, int64_t n) {
    of[outputs++] = {panels, n, strips};
    strips += (n + kRows - 1) / kRows;
  }
  void divide(const Term* terms, int term_count, bool packed) {
    for (int t = 0; t < term_count; t++) {
      const bool half = terms[t].a.data.half;
      const bool split = !packed && (!terms[t].b.data.half || terms[t].scale != 1);
      const Form resident = split ? Form::doubled : half ? Form::halves : Form::floats;
      const Form streamed = split ? Form::split : Form::halves;
      const int64_t depth = step_depth(streamed), here = (terms[t].k + depth - 1) / depth;
      parts[count++] = {&terms[t], resident, streamed, half || terms[t].one_part ? 1 : 2, steps, here, panel_bytes};
      steps += here;
      panel_bytes += here * parts[t].step_bytes();
    }
    blocks = max(1, (steps + kBlockSteps / 2) / kBlockSteps);
    block_steps = max(1, (steps + blocks - 1) / blocks);
    const int64_t block_bytes = max(1, min(kChunkPanels, panels_of_rows()) * panel_bytes / blocks);
    run_blocks = max(1, min(blocks, kResidentBytes / block_bytes));
    together = swapped || packed ? 1 : kWeaveStrips;
  }
  int64_t panels_of_rows() const { return (m + kRows - 1) / kRows; }
  int output_of(int64_t strip) const {
    int i = outputs - 1;
    while (strip < of[i].first) i--;
    return i;
  }
  bool one_run() const { return run_blocks >= blocks; }

  /// f(part, first, end) for the steps of block `b`, part by part.
  template <class F>
  void each_part(int64_t b, const F& f) const {
    const int64_t from = b * block_steps, to = min(steps, from + block_steps);
    for (int t = 0; t < count; t++) {
      const int64_t first = max(from, parts[t].first), end = min(to, parts[t].end());
      if (first < end) f(parts[t], first, end);
    }
  }

  void pack_panel(char* dst, int64_t panel, int64_t block) const;
  const char* pack_strip(char* dst, int64_t strip, int64_t block) const;
  Ahead ahead(int64_t strip, int64_t block, int64_t steps_until) const;
};

/// Block `block` of a panel of A, in its place within the panel at dst.
inline void Plan::pack_panel(char* dst, int64_t panel, int64_t block) const {
  each_part(block, [&](const Part& p, int64_t first, int64_t end) {
    const int64_t step = first - p.first;
    pack_steps(dst + p.offset + step * p.step_bytes(), p.term->a, p.resident, p.parts, swapped, panel * kRows,
               min(kRows, m - panel * kRows), step, end - first, p.term->k);
  });
}

/// Block `block` of a strip of B: in room, or as it lies where it is packed already.
inline const char* Plan::pack_strip(char* dst, int64_t strip, int64_t block) const {
  const Output& output = of[output_of(strip)];
  strip -= output.first;
  if (output.panels && parts[0].term->k % kStepK == 0) {
    return output.panels + (strip * steps + block * block_steps) * kStepBytes;
  }
  each_part(block, [&](const Part& p, int64_t first, int64_t end) {
    char* to = dst + (first - block * block_steps) * kStepBytes;
    if (output.panels) {
      const int64_t units = (p.term->k + 1) / 2, from = first * kSide, here = min((end - first) * kSide, units - from);
      __builtin_memcpy(to, output.panels + (strip * units + from) * kPanelWidth * 4, here * kPanelWidth * 4);
      __builtin_memset(to + here * kPanelWidth * 4, 0, ((end - first) * kSide - here) * kPanelWidth * 4);
    } else {
      pack_steps(to, p.term->b, p.streamed, 1, !swapped, strip * kRows, min(kRows, output.n - strip * kRows), first - p.first,
                 end - first, p.term->k, p.term->scale);
    }
  });
  return dst;
}

/// Where the block's part of B lies, to be asked for within the next `steps_until` steps.
inline Ahead Plan::ahead(int64_t strip, int64_t block, int64_t steps_until) const {
  Ahead next;
  const Output& output = of[output_of(strip)];
  strip -= output.first;
  each_part(block, [&](const Part& p, int64_t first, int64_t end) {
    if (next.rows > 0) return;
    const Operand& b = p.term->b;
    const int64_t size = b.data.half ? 2 : 4, k = (first - p.first) * step_depth(p.streamed), column = strip * kRows;
    const int64_t depth = min(p.term->k - k, (end - first) * step_depth(p.streamed));
    const int64_t columns = min(output.n - column, together * kRows);
    if (output.panels) {
      next = {output.panels + (strip * ((p.term->k + 1) / 2) + k / 2) * kPanelWidth * 4, 1, depth * kPanelWidth * 2};
    } else if (b.col == 1) {
      next = {b.data.at(column * b.row + k).data, columns, depth * size, b.row * size};
    } else {
      next = {b.data.at(column * b.row + k * b.col).data, depth, columns * size, b.col * size};
    }
    next.lines_per_step = (next.rows * ((next.row_bytes + 63) / 64) + steps_until - 1) / steps_until;
  });
  return next;
}

#endif

}  // namespace lathe::LATHE_ISA
