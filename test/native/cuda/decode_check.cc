// Attention over a paged cache as written, on the CPU, against float64: the decode kernel with splits and their merge,
// and the tiled kernel on the sequences with several new tokens.
#define LATHE_EMULATION
#include "../../../native/cuda/attention_decode.h"
#include "../../../native/cuda/attention_forward.h"
#include "reference.h"

using namespace lathe::cuda;
using namespace reference;

namespace {

struct Paged {
  Shape shape;
  std::vector<int> contexts, offsets, tables;
  int max_blocks, block_size;
  Halves q, k, v;
  Doubles expected;

  int cache_row(int s, int j) const { return tables[s * max_blocks + j / block_size] * block_size + j % block_size; }
};

/// `news` tokens of each context are new; blocks are shuffled, cache rows of nobody are NaN.
Paged draw(const Shape& s, int block_size, const std::vector<int>& contexts, const std::vector<int>& news) {
  Paged p = {s, contexts, offsets(news), {}, 1, block_size, {}, {}, {}, {}};
  int blocks = 3;
  for (int c : contexts) {
    p.max_blocks = std::max(p.max_blocks, div_up(c, block_size));
    blocks += div_up(c, block_size);
  }
  std::vector<int> order(blocks);
  for (int i = 0; i < blocks; i++) order[i] = i;
  for (int i = blocks - 1; i > 0; i--) std::swap(order[i], order[integer(0, i)]);
  p.tables.assign(contexts.size() * p.max_blocks, 0);
  const size_t width = static_cast<size_t>(s.key_heads) * s.d;
  p.k.assign(blocks * block_size * width, 0x7FC0), p.v = p.k;
  int next = 0;
  for (size_t n = 0; n < contexts.size(); n++) {
    for (int b = 0; b < div_up(contexts[n], block_size); b++) p.tables[n * p.max_blocks + b] = order[next++];
    for (int j = 0; j < contexts[n]; j++) {
      for (size_t c = 0; c < width; c++) {
        p.k[p.cache_row(n, j) * width + c] = narrow(normal());
        p.v[p.cache_row(n, j) * width + c] = narrow(normal());
      }
    }
  }
  p.q = normals(static_cast<size_t>(p.offsets.back()) * s.query_heads * s.d, 1.5);
  p.expected.assign(p.q.size(), 0);
  const Doubles q = widen(p.q), k = widen(p.k), v = widen(p.v);
  for (size_t n = 0; n < contexts.size(); n++) {
    for (int i = 0; i < news[n]; i++) {
      for (int h = 0; h < s.query_heads; h++) {
        const size_t at = (static_cast<size_t>(p.offsets[n] + i) * s.query_heads + h) * s.d;
        const RowResult r =
            attend(s, &q[at], k, h, contexts[n] - news[n] + i, [&](int j) { return p.cache_row(n, j); });
        for (size_t j = 0; j < r.weights.size(); j++) {
          const size_t from = p.cache_row(n, r.first + j) * width + h / (s.query_heads / s.key_heads) * s.d;
          for (int c = 0; c < s.d; c++) p.expected[at + c] += r.weights[j] * v[from + c];
        }
      }
    }
  }
  return p;
}

template <int kD>
void check(const Paged& p, bool only_decode, const std::string& name) {
  const Shape& s = p.shape;
  Halves out(p.q.size(), 0x7FC0);
  const int rows = p.offsets.back(), count = static_cast<int>(p.contexts.size());
  const SequenceSet set = {p.offsets.data(), count, p.tables.data(), p.contexts.data(), p.max_blocks, p.block_size};
  const int splits = most_splits(div_up(p.max_blocks * p.block_size, kDecodeKeys));
  const unsigned depth = only_decode ? rows : count;
  const size_t parts = static_cast<size_t>(depth) * s.query_heads * splits * (kD + 2);
  std::vector<float> partial(parts + 1, NAN);
  const DecodeArguments d = {p.q.data(), p.k.data(), p.v.data(), out.data(), set, rows, s.query_heads, s.key_heads,
                             s.window, static_cast<float>(s.scale) * kLog2E, !only_decode, partial.data()};
  const unsigned heads = s.key_heads * div_up(s.query_heads / s.key_heads, 16);
  emulation::launch({static_cast<unsigned>(splits), heads, depth}, kAttentionThreads,
                    DecodeTile<kD>::kSharedBytes, [&] { attention_decode_kernel<kD>(d); });
  if (!only_decode) {
    ForwardArguments f = {};
    f.q = p.q.data(), f.k = p.k.data(), f.v = p.v.data(), f.out = out.data(), f.sequences = set, f.rows = rows;
    f.query_heads = s.query_heads, f.key_heads = s.key_heads, f.window = s.window, f.scale_log2 = d.scale_log2;
    f.least_queries = 2;
    const unsigned slots = slot_count(rows, count, ForwardTile<kD>::kQueries);
    emulation::launch({slots * s.query_heads}, kAttentionThreads, ForwardTile<kD>::kSharedBytes,
                      [&] { attention_forward_kernel<kD>(f); });
  }
  expect_close(name, widen(out), p.expected, 1e-2);
  expect(name + ": partials within their entries", std::isnan(partial[parts]));
  bool clean = true;
  for (int i = 0; i < kTickets; i++) clean &= decode_tickets[i] == 0;
  expect(name + ": tickets are zero again", clean);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  for (bool falling : {false, true}) {
    emulation::falling_order = falling;
    check<128>(draw({4, 1, 128, 0, 0.088}, 16, {1, 17, 300}, {1, 1, 1}), true, "decode, 128, blocks of 16");
    check<64>(draw({14, 2, 64, 0, 0.125}, 4, {5, 64, 129}, {1, 1, 1}), true, "decode, 64, blocks of 4");
    check<64>(draw({2, 1, 64, 70, 0.125}, 16, {200, 30}, {1, 1}), true, "decode, window 70");
    check<64>(draw({20, 1, 64, 0, 0.125}, 16, {40}, {1}), true, "decode, 20 heads on one key head");
    check<64>(draw({2, 1, 64, 0, 0.125}, 16, {2200}, {1}), true, "decode, more tiles than splits");
    check<128>(draw({2, 1, 128, 0, 0.088}, 8, {150, 40, 20}, {140, 1, 20}), false, "mixed, 128, blocks of 8");
    check<64>(draw({2, 2, 64, 0, 0.125}, 16, {50, 9}, {2, 0}), true, "two new tokens by the decode kernel");
    check<64>(draw({4, 2, 64, 0, 0.125}, 16, {70, 200, 9, 130}, {66, 1, 0, 1}), false, "mixed, single tokens behind a prompt");
  }
  expect("no bank conflicts", emulation::bank_conflicts == 0);
  return failures != 0;
}
