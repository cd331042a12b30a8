// The skinny product with adapters as written, on the CPU, against float64; and that a row's bits do not depend on how
// many rows there are.
#define LATHE_EMULATION
#include "../../../native/cuda/lora_tiles.h"
#include "../../../native/cuda/skinny_gemm.h"
#include "reference.h"

using namespace lathe::cuda;
using namespace reference;

namespace {

struct Problem {
  int depth;
  std::vector<int> widths;
  Halves x, pool;
  std::vector<Halves> w, bias;
  std::vector<int> table, slots;
};

Problem draw(int tokens, int depth, const std::vector<int>& widths) {
  Problem p = {depth, widths, normals(static_cast<size_t>(tokens) * depth), normals(8), {}, {}, {}, {}};
  for (int n : widths) {
    p.w.push_back(normals(static_cast<size_t>(n) * depth, 1 / std::sqrt(depth)));
    p.bias.push_back(normals(n));
  }
  for (int slot = 0; slot < 3; slot++) {
    for (int n : widths) {
      const int rank = slot * 8;  // slot 0 touches no layer
      const float scale = 0.5f + slot;
      p.table.push_back(static_cast<int>(p.pool.size() / 8));
      const Halves a = normals(static_cast<size_t>(rank) * depth, 1 / std::sqrt(depth));
      p.pool.insert(p.pool.end(), a.begin(), a.end());
      p.table.push_back(static_cast<int>(p.pool.size() / 8));
      const Halves b = normals(static_cast<size_t>(n) * rank, 0.5);
      p.pool.insert(p.pool.end(), b.begin(), b.end());
      p.table.push_back(rank);
      p.table.push_back(static_cast<int>(as_bits(scale)));
    }
  }
  for (int t = 0; t < tokens; t++) p.slots.push_back(t % 4 - 1);
  return p;
}

Doubles expected(const Problem& p, size_t layer, int tokens) {
  const Doubles x = widen(p.x), w = widen(p.w[layer]), bias = widen(p.bias[layer]), pool = widen(p.pool);
  const int n = p.widths[layer];
  Doubles y(static_cast<size_t>(tokens) * n);
  for (int t = 0; t < tokens; t++) {
    std::vector<double> h;
    const int* entry = p.slots[t] < 0 ? nullptr : &p.table[(p.slots[t] * p.widths.size() + layer) * 4];
    const int rank = entry ? entry[2] : 0;
    for (int r = 0; r < rank; r++) {
      double sum = 0;
      for (int k = 0; k < p.depth; k++) sum += x[t * p.depth + k] * pool[entry[0] * 8 + r * p.depth + k];
      h.push_back(sum * as_float(static_cast<uint32_t>(entry[3])));
    }
    for (int row = 0; row < n; row++) {
      double sum = bias[row];
      for (int k = 0; k < p.depth; k++) sum += x[t * p.depth + k] * w[static_cast<size_t>(row) * p.depth + k];
      for (int r = 0; r < rank; r++) sum += h[r] * pool[entry[1] * 8 + row * rank + r];
      y[static_cast<size_t>(t) * n + row] = sum;
    }
  }
  return y;
}

/// y of every layer for the first `tokens` rows, f32.
std::vector<std::vector<float>> run(Problem& p, int tokens) {
  std::vector<std::vector<float>> y;
  SkinnyArguments a = {};
  a.layer_count = static_cast<int>(p.widths.size()), a.x = p.x.data(), a.tokens = tokens, a.depth = p.depth;
  for (size_t i = 0; i < p.widths.size(); i++) y.emplace_back(static_cast<size_t>(tokens) * p.widths[i], NAN);
  for (size_t i = 0; i < p.widths.size(); i++) {
    a.layers[i] = {p.w[i].data(), {p.bias[i].data(), true}, {y[i].data(), false}, p.widths[i], a.tiles};
    a.tiles += div_up(p.widths[i], kSkinnyRows);
  }
  const SkinnySplit split = skinny_split(a.tiles, p.depth);
  std::vector<float> h(p.widths.size() * tokens * kMostRank, NAN);
  std::vector<float> partial(static_cast<size_t>(a.tiles) * kSkinnyRows * tokens * split.count, NAN);
  a.split_depth = split.depth, a.partial = partial.data(), a.h = h.data();
  a.adapters = {p.slots.data(), p.table.data(), {p.pool.data(), true}, a.layer_count};
  emulation::launch({static_cast<unsigned>(tokens), static_cast<unsigned>(a.layer_count)}, kShrinkThreads, 0, [&] {
    lora_shrink_kernel<true>(h.data(), FloatPointer{p.x.data(), true}, a.adapters, p.depth);
  });
  const emulation::Dim3 grid = {static_cast<unsigned>(a.tiles), static_cast<unsigned>(split.count)};
  if (tokens <= 8) {
    emulation::launch(grid, kSkinnyThreads, SkinnyTile<1>::kSharedBytes, [&] { skinny_gemm_kernel<1>(a); });
  } else if (tokens <= 16) {
    emulation::launch(grid, kSkinnyThreads, SkinnyTile<2>::kSharedBytes, [&] { skinny_gemm_kernel<2>(a); });
  } else {
    emulation::launch(grid, kSkinnyThreads, SkinnyTile<4>::kSharedBytes, [&] { skinny_gemm_kernel<4>(a); });
  }
  return y;
}

void check(int tokens, int depth, const std::vector<int>& widths) {
  Problem p = draw(tokens, depth, widths);
  const auto y = run(p, tokens);
  for (size_t i = 0; i < widths.size(); i++) {
    const std::string name = "linear group, " + std::to_string(tokens) + " rows, depth " + std::to_string(depth) +
                             ", width " + std::to_string(widths[i]);
    expect_close(name, widen(y[i]), expected(p, i, tokens), 1e-5);
  }
  const auto first = run(p, 1);
  bool same = true;
  for (size_t i = 0; i < widths.size(); i++) {
    same &= std::memcmp(first[i].data(), y[i].data(), first[i].size() * 4) == 0;
  }
  expect("row 0 has the same bits alone and among " + std::to_string(tokens), same);
}

/// Bias and adapters for many rows: tiles of rows with one adapter, and with several.
void check_tiles(int tokens, int depth, int width, bool sorted) {
  Problem p = draw(tokens, depth, {8, width});
  for (int t = 0; t < tokens; t++) p.slots[t] = sorted ? t * 4 / tokens - 1 : integer(-1, 2);
  const SlotTable adapters = {p.slots.data(), p.table.data(), {p.pool.data(), true}, 2};
  std::vector<float> h(2 * tokens * kMostRank, NAN);
  const unsigned tiles = div_up(tokens, kTileTokens);
  emulation::launch({tiles, 2}, kShrinkThreads, 0,
                    [&] { lora_shrink_tiled(h.data(), p.x.data(), adapters, tokens, depth); });
  const Doubles whole = expected(p, 1, tokens), x = widen(p.x), w = widen(p.w[1]);
  std::vector<float> y(whole.size());
  for (int t = 0; t < tokens; t++) {
    for (int n = 0; n < width; n++) {
      double sum = 0;
      for (int k = 0; k < depth; k++) sum += x[t * depth + k] * w[static_cast<size_t>(n) * depth + k];
      y[static_cast<size_t>(t) * width + n] = static_cast<float>(sum);
    }
  }
  emulation::launch({tiles, static_cast<unsigned>(div_up(width, kShrinkThreads))}, kShrinkThreads, 0, [&] {
    lora_expand_tiled({y.data(), false}, {p.bias[1].data(), true}, h.data(), adapters, 1, tokens, width);
  });
  expect_close("adapters of " + std::to_string(tokens) + (sorted ? " sorted rows" : " rows") + ", depth " +
                   std::to_string(depth) + ", width " + std::to_string(width),
               widen(y), whole, 1e-5);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  for (bool falling : {false, true}) {
    emulation::falling_order = falling;
    check(1, 8, {1});
    check(5, 264, {100, 64, 7});
    check(17, 1544, {65, 30});
    check(32, 512, {130});
    check_tiles(40, 264, 300, true);
    check_tiles(35, 1000, 20, false);
  }
  return failures != 0;
}
