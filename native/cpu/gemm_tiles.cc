// The matrix product on AMX tiles. Rows of A are packed once for all tasks and stay in L2 ("resident"); strips of 32
// columns of B pass ("streamed"), each packed by the task that uses it, a block of k at a time, into L1. B goes in as the
// left operand where its k are contiguous, which is then a copy, and C comes out transposed: turning C and A costs less
// than turning B as long as there are fewer rows than k. An f32 A is split into two numbers of bf16 that add up to it: no
// bit of the weights and 2⁻¹⁷ of the activations at most is lost. Each element of C is one chain in ascending k, term by
// term, whatever M is: tiles wait in f32 between blocks, and a product of two factors does not depend on their sides.
#include "gemm_tiles.h"

#include "gemm_finish.h"
#include "gemm_tiles_pack.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)
namespace {

constexpr int64_t kBlockSteps = 12;          // of a strip in L1: 24 KB; the rest is for what passes
constexpr int64_t kChunkPanels = 8;          // 32 rows each that stay in L2
constexpr int64_t kResidentBytes = 1 << 20;  // of them that a run of blocks may take
constexpr int64_t kGroupStrips = 16;         // most strips of a task whose sums wait from one such run to the next
constexpr int64_t kWeaveStrips = 4;          // strips packed together where B's columns are contiguous: 256 bytes a row
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kSerialWork = 1 << 21;  // multiply-adds below which waking a thread costs more
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kTileFloats = kRows * kRows;
constexpr int kMostTerms = 8;

/// A term in steps. Resident bytes of a panel begin at `offset`.
struct Part {
  const Term* term;
  Form resident, streamed;
  int parts;
  int64_t first, steps, offset;

  int64_t end() const { return first + steps; }
  int64_t step_bytes() const { return parts * kStepBytes; }
};

struct Plan {
  const Product& c;
  const char* panels;
  int64_t m, n;
  bool swapped;
  int count = 0;
  Part parts[kMostTerms];
  int64_t steps = 0, panel_bytes = 0, blocks = 1, block_steps = 0, run_blocks = 1, together = 1;

  Plan(const Product& product, const Term* terms, int term_count, const char* packed, int64_t rows, int64_t columns)
      : c(product), panels(packed), m(rows), n(columns), swapped(!packed && terms[0].b.col == 1) {
    for (int t = 0; t < term_count; t++) {
      const bool half = terms[t].a.data.half;
      const bool split = !(packed && t == 0) && (!terms[t].b.data.half || terms[t].scale != 1);
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
  int64_t strips() const { return (n + kRows - 1) / kRows; }
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
  void compute(int64_t panel0, const char* resident, int64_t panel1, int64_t strip0, int64_t strip1, char* streamed,
               float* sums) const;
  void multiply_panels(int64_t panel0, const char* resident, int64_t panel1, int64_t strip, int64_t block,
                       const char* streamed, float* sums, Ahead& next) const;
};

/// Block `block` of a panel of A, in its place within the panel at dst.
void Plan::pack_panel(char* dst, int64_t panel, int64_t block) const {
  each_part(block, [&](const Part& p, int64_t first, int64_t end) {
    const int64_t step = first - p.first;
    pack_steps(dst + p.offset + step * p.step_bytes(), p.term->a, p.resident, p.parts, swapped, panel * kRows,
               min(kRows, m - panel * kRows), step, end - first, p.term->k);
  });
}

/// Block `block` of a strip of B: in room, or as it lies where it is packed already.
const char* Plan::pack_strip(char* dst, int64_t strip, int64_t block) const {
  if (panels && count == 1 && parts[0].term->k % kStepK == 0) {
    return panels + (strip * steps + block * block_steps) * kStepBytes;
  }
  each_part(block, [&](const Part& p, int64_t first, int64_t end) {
    char* to = dst + (first - block * block_steps) * kStepBytes;
    if (panels && p.first == 0) {
      const int64_t units = (p.term->k + 1) / 2, from = first * kSide, here = min((end - first) * kSide, units - from);
      __builtin_memcpy(to, panels + (strip * units + from) * kPanelWidth * 4, here * kPanelWidth * 4);
      __builtin_memset(to + here * kPanelWidth * 4, 0, ((end - first) * kSide - here) * kPanelWidth * 4);
    } else {
      pack_steps(to, p.term->b, p.streamed, 1, !swapped, strip * kRows, min(kRows, n - strip * kRows), first - p.first,
                 end - first, p.term->k, p.term->scale);
    }
  });
  return dst;
}

/// Where the block's part of B lies, to be asked for within the next `steps_until` steps.
Ahead Plan::ahead(int64_t strip, int64_t block, int64_t steps_until) const {
  Ahead next;
  each_part(block, [&](const Part& p, int64_t first, int64_t end) {
    if (next.rows > 0) return;
    const Operand& b = p.term->b;
    const int64_t size = b.data.half ? 2 : 4, k = (first - p.first) * step_depth(p.streamed), column = strip * kRows;
    const int64_t depth = min(p.term->k - k, (end - first) * step_depth(p.streamed));
    const int64_t columns = min(n - column, together * kRows);
    if (panels && p.first == 0) {
      next = {panels + (strip * ((p.term->k + 1) / 2) + k / 2) * kPanelWidth * 4, 1, depth * kPanelWidth * 2};
    } else if (b.col == 1) {
      next = {b.data.at(column * b.row + k).data, columns, depth * size, b.row * size};
    } else {
      next = {b.data.at(column * b.row + k * b.col).data, depth, columns * size, b.col * size};
    }
    next.lines_per_step = (next.rows * ((next.row_bytes + 63) / 64) + steps_until - 1) / steps_until;
  });
  return next;
}

void Plan::multiply_panels(int64_t panel0, const char* resident, int64_t panel1, int64_t strip, int64_t block,
                           const char* streamed, float* sums, Ahead& next) const {
  const Product turned = {c.data, c.col, c.row, c.alpha, c.beta};
  const int64_t columns = min(kRows, n - strip * kRows);
  for (int64_t i = panel0; i < panel1; i++, sums += kTileFloats) {
    const int64_t rows = min(kRows, m - i * kRows);
    Run runs[kMostTerms];
    int run_count = 0;
    each_part(block, [&](const Part& p, int64_t first, int64_t end) {
      runs[run_count++] = {resident + (i - panel0) * panel_bytes + p.offset + (first - p.first) * p.step_bytes(),
                           streamed + (first - block * block_steps) * kStepBytes, end - first, p.parts};
    });
    const auto run = rows <= kSide ? (swapped ? tile_block<true, true> : tile_block<false, true>)
                                   : (swapped ? tile_block<true, false> : tile_block<false, false>);
    run(sums, block > 0, runs, run_count, next);
    if (block + 1 < blocks) continue;
    if (swapped) {
      write_tile(turned, sums, strip * kRows, columns, i * kRows, rows);
    } else {
      write_tile(c, sums, i * kRows, rows, strip * kRows, columns);
    }
  }
}

/// Rows of panels [panel0, panel1) (at `resident`) by strips [strip0, strip1). streamed: room for a block of `together`
/// strips; sums: for those, or for all of the task's where k is more than one run.
void Plan::compute(int64_t panel0, const char* resident, int64_t panel1, int64_t strip0, int64_t strip1, char* streamed,
                   float* sums) const {
  const int64_t strip_floats = (panel1 - panel0) * kTileFloats, strip_bytes = block_steps * kStepBytes;
  for (int64_t run = 0; run < blocks; run += run_blocks) {
    const int64_t run_end = min(blocks, run + run_blocks);
    for (int64_t j = strip0; j < strip1; j += together) {
      const int64_t strips_here = min(together, strip1 - j);
      for (int64_t b = run; b < run_end; b++) {
        const bool same = b + 1 < run_end, more = j + together < strip1;
        Ahead next;
        if (same || more || run_end < blocks) {
          next = ahead(same ? j : more ? j + together : strip0, same ? b + 1 : more ? run : run_end,
                       strips_here * (panel1 - panel0) * block_steps);
        }
        const char* packed[kWeaveStrips];
        for (int64_t q = 0; q < strips_here; q++) packed[q] = pack_strip(streamed + q * strip_bytes, j + q, b);
        for (int64_t q = 0; q < strips_here; q++) {
          multiply_panels(panel0, resident, panel1, j + q, b, packed[q],
                          sums + (j - (one_run() ? j : strip0) + q) * strip_floats, next);
        }
      }
    }
  }
}

}  // namespace

void multiply_on_tiles(const Product& c, const Term* terms, int count, const char* panels, int64_t m, int64_t n) {
  if (m == 0 || n == 0) return;
  const Plan plan(c, terms, count, panels, m, n);
  const int64_t work = m * n * plan.steps * kStepK, threads = work < kSerialWork ? 1 : thread_count();
  const int64_t all = plan.panels_of_rows(), strips = plan.strips();
  // Groups of one size; when k is several runs their sums wait in L2.
  int64_t groups = min(strips, threads == 1 ? 1 : threads * kTasksPerThread);
  if (!plan.one_run()) groups = min(strips, round_up((strips + kGroupStrips - 1) / kGroupStrips, threads));
  const int64_t group = round_up((strips + groups - 1) / groups, plan.together);
  groups = (strips + group - 1) / group;
  const int64_t chunk = min(all, kChunkPanels), chunks_at_once = max(1, threads * kTasksPerThread / groups);
  const int64_t at_once = min(all, chunk * chunks_at_once);
  const int64_t streamed_bytes = plan.together * plan.block_steps * kStepBytes;
  const int64_t sum_floats = chunk * (plan.one_run() ? plan.together : group) * kTileFloats;
  // One piece of memory, large enough for the allocator to ask for huge pages.
  const int64_t resident_bytes = round_up(at_once * plan.panel_bytes, 4096), worker_bytes = round_up(streamed_bytes + sum_floats * 4, 4096);
  const Scratch room(max(resident_bytes + threads * worker_bytes, kHugePage));
  for (int64_t first = 0; first < all; first += at_once) {
    const int64_t end = min(all, first + at_once), chunks = (end - first + chunk - 1) / chunk;
    const auto pack = [&](int64_t task, int) {
      const int64_t i = task / plan.blocks;
      plan.pack_panel(room.bytes() + i * plan.panel_bytes, first + i, task % plan.blocks);
    };
    const auto multiply = [&](int64_t task, int worker) {
      const TileScope tiles;
      const int64_t i = task / groups * chunk, j = task % groups * group;
      char* own = room.bytes() + resident_bytes + worker * worker_bytes;
      plan.compute(first + i, room.bytes() + i * plan.panel_bytes, min(end, first + i + chunk), j,
                   min(strips, j + group), own,
                   reinterpret_cast<float*>(own + streamed_bytes));
    };
    if (threads == 1) {
      for (int64_t t = 0; t < (end - first) * plan.blocks; t++) pack(t, 0);
      for (int64_t t = 0; t < chunks * groups; t++) multiply(t, 0);
    } else {
      parallel_tasks((end - first) * plan.blocks, pack);
      parallel_tasks(chunks * groups, multiply);
    }
  }
}

#endif

}  // namespace lathe::LATHE_ISA
