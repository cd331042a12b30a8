// The thin products and copies of lora_thin.h and lora_copies.h, launched: tiles and splits by the sizes alone.
#include "lora_products.h"

#include "lora_copies.h"
#include "lora_thin.h"

namespace lathe::cuda {
namespace {

/// Blocks that a thin product should have before its sum is left whole, and the shortest part of a sum.
constexpr int64_t kEnoughThinBlocks = 256, kShortestRows = 256, kShortestTokens = 512, kMostThinSplits = 64;

int64_t splits_of(int64_t blocks, int64_t length, int64_t shortest) {
  const int64_t wanted = ceil_div(kEnoughThinBlocks, blocks), possible = ceil_div(length, shortest);
  const int64_t count = wanted < possible ? wanted : possible;
  return count < 1 ? 1 : count < kMostThinSplits ? count : kMostThinSplits;
}

/// The narrowest tile that holds the columns: 16, 32 or 64.
int tile_of(int columns) { return columns <= 16 ? 16 : columns <= 32 ? 32 : 64; }

template <int kN>
void launch_rows(const RowsArguments& a, dim3 grid, bool along_k) {
  const int shared = thin_shared_bytes(kN, along_k);
  if (along_k) launch("loraRows", lora_rows_kernel<kN, true>, grid, dim3(kThinThreads), shared, a);
  else launch("loraRows", lora_rows_kernel<kN, false>, grid, dim3(kThinThreads), shared, a);
}

}  // namespace

LoraGroup lora_group(In x, OptionalIn dropped, In w0, OptionalIn w1, OptionalIn w2, In a, OptionalIn b0, OptionalIn b1,
                   OptionalIn b2, float scale0, float scale1, float scale2) {
  LoraGroup g = {{},           x, dropped ? *dropped : x, a, {&w0, w1, w2}, {b0, b1, b2}, {scale0, scale1, scale2},
                 x.dims[0], x.dims[1]};
  RankLayout& r = g.ranks;
  r.count = w2 ? 3 : w1 ? 2 : 1;
  for (int i = 0; i < r.count; i++) {
    r.rank[i] = g.b[i] ? static_cast<int>(g.b[i]->dims[1]) : 0;
    r.first[i] = r.total, r.at[i] = r.pitch;
    r.total += r.rank[i], r.pitch += r.width(i);
  }
  return g;
}

bool in_halves(const LoraGroup& g) {
  bool good = is_half(&g.x) && is_half(&g.xa) && g.depth > 0 && g.tokens > 0;
  for (int i = 0; i < g.ranks.count; i++) good &= is_half(g.w[i]) && g.outputs(i) > 0;
  return good;
}

void Copies::add(FloatPointer from, int64_t rows, int64_t columns, int64_t from_pitch, uint16_t* to, int64_t to_rows,
                 int64_t to_columns, int64_t to_pitch, float scale, bool transposed) {
  const bool whole = from.half && scale == 1.0f && !transposed && rows == to_rows && columns == to_columns;
  const bool even = columns % 8 == 0 && from_pitch % 8 == 0 && to_pitch % 8 == 0;
  const unsigned blocks = grid_for(ceil_div(to_columns, 8) * to_rows, kCopyThreads);
  const bool wide = whole && even && aligned16(from.data) && aligned16(to);
  jobs_.jobs[jobs_.count++] = {from,     to,    rows,    columns, from_pitch, to_rows,   to_columns,
                               to_pitch, scale, blocks_, blocks,  wide,       transposed};
  blocks_ += blocks;
}

void Copies::add_a(const LoraGroup& g, uint16_t* to, bool transposed) {
  const FloatPointer a = pointer(&g.a);
  const RankLayout& ranks = g.ranks;
  for (int i = 0; i < ranks.count; i++) {
    if (ranks.rank[i] == 0) continue;
    const FloatPointer rows = {static_cast<char*>(a.data) + ranks.first[i] * g.depth * (a.half ? 2 : 4), a.half};
    if (transposed) {
      add(rows, ranks.rank[i], g.depth, g.depth, to + ranks.at[i], g.depth, ranks.width(i), ranks.pitch, 1.0f, true);
    } else {
      add(rows, ranks.rank[i], g.depth, g.depth, to + ranks.at[i] * g.depth, ranks.width(i), g.depth, g.depth);
    }
  }
}

void Copies::run() const { launch("loraCopies", lora_copy_kernel, dim3(blocks_), dim3(kCopyThreads), 0, jobs_); }

ScaledB::ScaledB(Copies& copies, const LoraGroup& g) : memory_(bytes(g)) {
  uint16_t* next = memory_.as<uint16_t>();
  for (int i = 0; i < g.ranks.count; i++) {
    if (g.ranks.rank[i] == 0) continue;
    at[i] = next;
    copies.add(pointer(g.b[i]), g.outputs(i), g.ranks.rank[i], g.ranks.rank[i], next, g.outputs(i), g.ranks.width(i),
               g.ranks.width(i), g.scale[i]);
    next += g.outputs(i) * g.ranks.width(i);
  }
}

int64_t ScaledB::bytes(const LoraGroup& g) {
  int64_t elements = 0;
  for (int i = 0; i < g.ranks.count; i++) elements += g.outputs(i) * g.ranks.width(i);
  return elements * 2;
}

void rows_product(RowsArguments& a, const RankLayout& ranks, bool along_k, uint16_t* to, int64_t to_pitch, float* h,
                  int ones) {
  int widest = 0, blocks = 0;
  int64_t deepest = 0;
  for (int i = 0; i < a.count; i++) {
    if (a.problems[i].columns > widest) widest = a.problems[i].columns;
    if (a.problems[i].depth > deepest) deepest = a.problems[i].depth;
  }
  const int tile = tile_of(widest);
  for (int i = 0; i < a.count; i++) {
    a.problems[i].first_block = blocks;
    blocks += div_up(a.problems[i].columns, tile);
  }
  const int64_t row_blocks = ceil_div(a.tokens, kThinTile);
  const int64_t splits = splits_of(row_blocks * blocks, deepest, kShortestRows);
  for (int i = 0; i < a.count; i++) {
    RowsProblem& p = a.problems[i];
    p.split_depth = ceil_div(ceil_div(p.depth, kThinDepth), splits) * kThinDepth;
  }
  const Scratch partial(splits * a.tokens * ranks.pitch * 4);
  a.pitch = ranks.pitch, a.partial = partial.as<float>();
  const dim3 grid(static_cast<unsigned>(row_blocks), static_cast<unsigned>(blocks), static_cast<unsigned>(splits));
  if (tile == 16) launch_rows<16>(a, grid, along_k);
  else if (tile == 32) launch_rows<32>(a, grid, along_k);
  else launch_rows<64>(a, grid, along_k);
  const unsigned join_blocks = grid_for(a.tokens * (ranks.pitch + ones), kCopyThreads);
  launch("loraRowsJoin", lora_rows_join, dim3(join_blocks), dim3(kCopyThreads), 0, to, to_pitch, h, a.partial, ranks,
         a.tokens, static_cast<int>(splits), ones);
}

void gradient_sums(GradientArguments& a, GradientTargets& targets, const RankLayout& ranks) {
  int widest = 0;
  int64_t blocks = 0, elements = 0, largest = 0;
  for (int i = 0; i < a.count; i++) {
    GradientProblem& p = a.problems[i];
    if (p.columns > widest) widest = p.columns;
    p.first_block = static_cast<int>(blocks);
    blocks += ceil_div(p.width, kThinTile);
    elements += p.width * p.columns;
    if (p.width * p.columns > largest) largest = p.width * p.columns;
  }
  const int tile = tile_of(widest);
  const int64_t column_blocks = ceil_div(widest, tile);
  const int64_t wanted = splits_of(blocks * column_blocks, a.tokens, kShortestTokens);
  a.split_tokens = ceil_div(ceil_div(a.tokens, kThinDepth), wanted) * kThinDepth;
  const int64_t splits = ceil_div(a.tokens, a.split_tokens);
  const Scratch partial(splits * elements * 4);
  float* next = partial.as<float>();
  for (int i = 0; i < a.count; i++) {
    GradientProblem& p = a.problems[i];
    GradientTarget& t = targets.targets[i];
    p.partial = next;
    t.partial = next, t.width = p.width, t.columns = p.columns, t.thin_first = p.thin_first;
    next += splits * p.width * p.columns;
  }
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(column_blocks), static_cast<unsigned>(splits));
  const int shared = thin_shared_bytes(tile, false);
  if (tile == 16) launch("loraGradient", lora_gradient_kernel<16>, grid, dim3(kThinThreads), shared, a);
  else if (tile == 32) launch("loraGradient", lora_gradient_kernel<32>, grid, dim3(kThinThreads), shared, a);
  else launch("loraGradient", lora_gradient_kernel<64>, grid, dim3(kThinThreads), shared, a);
  launch("loraGradientJoin", lora_gradient_join, dim3(grid_for(largest, kCopyThreads), a.count), dim3(kCopyThreads), 0,
         targets, ranks, static_cast<int>(splits));
}

void copy_columns(float* to, int64_t to_pitch, const float* from, int64_t from_pitch, int64_t rows, int columns) {
  launch("loraColumns", lora_columns_kernel, dim3(grid_for(rows * columns, kCopyThreads)), dim3(kCopyThreads), 0, to,
         to_pitch, from, from_pitch, rows, columns);
}

void branch_product(BranchArguments& a) {
  int blocks = 0;
  for (int i = 0; i < a.count; i++) {
    a.problems[i].first_block = blocks;
    blocks += static_cast<int>(ceil_div(a.problems[i].columns, kBranchColumns));
  }
  launch("loraBranch", lora_branch_kernel, dim3(static_cast<unsigned>(ceil_div(a.tokens, kBranchTokens)), blocks),
         dim3(kBranchThreads), 0, a);
}

}  // namespace lathe::cuda
