// The matrix product on AMX tiles. Rows of A are packed once for all tasks and stay in L2 ("resident"); strips of 32
// columns of B pass ("streamed"), each packed by the task that uses it, a block of k at a time, into L1. B goes in as the
// left operand where its k are contiguous, which is then a copy, and C comes out transposed: turning C and A costs less
// than turning B as long as there are fewer rows than k. An f32 A is split into two numbers of bf16 that add up to it: no
// bit of the weights and 2⁻¹⁷ of the activations at most is lost. Each element of C is one chain in ascending k, term by
// term, whatever M is: tiles wait in f32 between blocks, and a product of two factors does not depend on their sides.
#include "gemm_tiles.h"

#include "gemm_finish.h"
#include "gemm_tiles_plan.h"
#include "parallel.h"

namespace lathe::LATHE_ISA {

#if defined(__AMX_BF16__)
namespace {

constexpr int64_t kGroupStrips = 16;  // most strips of a task whose sums wait from one such run to the next
constexpr int64_t kTasksPerThread = 4;
constexpr int64_t kSerialWork = 1 << 21;  // multiply-adds below which waking a thread costs more
constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kTileFloats = kRows * kRows;

struct Work : Plan {
  using Plan::Plan;

  void compute(int64_t panel0, const char* resident, int64_t panel1, int64_t strip0, int64_t strip1, char* streamed,
               float* sums) const;
  void multiply_panels(int64_t panel0, const char* resident, int64_t panel1, int64_t strip, int64_t block,
                       const char* streamed, float* sums, Ahead& next) const;
};

void Work::multiply_panels(int64_t panel0, const char* resident, int64_t panel1, int64_t strip, int64_t block,
                           const char* streamed, float* sums, Ahead& next) const {
  const int output = output_of(strip);
  const int64_t column = (strip - of[output].first) * kRows, columns = min(kRows, of[output].n - column);
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
    if (finish) {
      finish->call(finish->context, output, {i * kRows, rows, column, columns}, sums);
    } else if (swapped) {
      write_tile({c->data, c->col, c->row, c->alpha, c->beta}, sums, column, columns, i * kRows, rows);
    } else {
      write_tile(*c, sums, i * kRows, rows, column, columns);
    }
  }
}

/// Rows of panels [panel0, panel1) (at `resident`) by strips [strip0, strip1). streamed: room for a block of `together`
/// strips; sums: for those, or for all of the task's where k is more than one run.
void Work::compute(int64_t panel0, const char* resident, int64_t panel1, int64_t strip0, int64_t strip1, char* streamed,
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

void run_tasks(const Work& plan, int64_t columns) {
  const int64_t work = plan.m * columns * plan.steps * kStepK, threads = work < kSerialWork ? 1 : thread_count();
  const int64_t all = plan.panels_of_rows(), strips = plan.strips;
  // Groups of one size; when k is several runs their sums wait in L2.
  int64_t groups = min(strips, threads == 1 ? 1 : threads * kTasksPerThread * plan.outputs);
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

}  // namespace

void multiply_on_tiles(const Product& c, const Term* terms, int count, int64_t m, int64_t n) {
  if (m > 0 && n > 0) run_tasks(Work(c, terms, count, m, n), n);
}

void tile_products(const Operand& a, const PackedWeight* weights, int count, int64_t m, const Finish& finish) {
  const Term term = {a, a, weights[0].k};
  const Work plan(term, weights, count, m, finish);
  if (m > 0 && plan.strips > 0) run_tasks(plan, plan.strips * kRows);
}

#endif

}  // namespace lathe::LATHE_ISA
