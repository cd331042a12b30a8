// The tiled attention kernels as written, on the CPU, against float64: forward and backward over packed sequences,
// forward over a paged cache.
#define LATHE_EMULATION
#include "../../../native/cuda/attention_decode.h"
#include "../../../native/cuda/attention_forward.h"
#include "../../../native/cuda/attention_generic.h"
#include "../../../native/cuda/attention_gradient.h"
#include "reference.h"

using namespace lathe::cuda;
using namespace reference;

namespace {

struct Packed {
  Shape shape;
  std::vector<int> offsets;
  int rows;
  Halves q, k, v, dout;
  Doubles out, lse, dq, dk, dv;  // float64 results
};

Packed draw(const Shape& s, const std::vector<int>& lengths) {
  Packed p = {s, offsets(lengths), 0, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  p.rows = p.offsets.back();
  const size_t wide = static_cast<size_t>(p.rows) * s.query_heads * s.d, narrow_ = static_cast<size_t>(p.rows) * s.key_heads * s.d;
  p.q = normals(wide, 1.5), p.k = normals(narrow_), p.v = normals(narrow_), p.dout = normals(wide);
  const Doubles q = widen(p.q), k = widen(p.k), v = widen(p.v), dout = widen(p.dout);
  p.out.assign(wide, 0), p.dq.assign(wide, 0), p.dk.assign(narrow_, 0), p.dv.assign(narrow_, 0);
  p.lse.assign(static_cast<size_t>(p.rows) * s.query_heads, 0);
  for (size_t n = 0; n + 1 < p.offsets.size(); n++) {
    const int first = p.offsets[n];
    for (int i = 0; i < p.offsets[n + 1] - first; i++) {
      for (int h = 0; h < s.query_heads; h++) {
        const size_t at = (static_cast<size_t>(first + i) * s.query_heads + h) * s.d;
        const RowResult r = attend(s, &q[at], k, h, i, [&](int j) { return first + j; });
        p.lse[static_cast<size_t>(h) * p.rows + first + i] = r.lse;
        const auto key_at = [&](size_t j) {
          return (static_cast<size_t>(first + r.first + j) * s.key_heads + h / (s.query_heads / s.key_heads)) * s.d;
        };
        double delta = 0;
        for (int c = 0; c < s.d; c++) {
          double sum = 0;
          for (size_t j = 0; j < r.weights.size(); j++) sum += r.weights[j] * v[key_at(j) + c];
          p.out[at + c] = sum;
          delta += sum * dout[at + c];
        }
        for (size_t j = 0; j < r.weights.size(); j++) {
          double dp = 0;
          for (int c = 0; c < s.d; c++) dp += dout[at + c] * v[key_at(j) + c];
          const double ds = r.weights[j] * (dp - delta) * s.scale;
          for (int c = 0; c < s.d; c++) {
            p.dq[at + c] += ds * k[key_at(j) + c];
            p.dk[key_at(j) + c] += ds * q[at + c];
            p.dv[key_at(j) + c] += r.weights[j] * dout[at + c];
          }
        }
      }
    }
  }
  return p;
}

std::string describe(const char* kernel, const Packed& p) {
  std::string text = std::string(kernel) + ", heads " + std::to_string(p.shape.query_heads) + "/" +
                     std::to_string(p.shape.key_heads) + " of " + std::to_string(p.shape.d);
  if (p.shape.window) text += ", window " + std::to_string(p.shape.window);
  text += ", lengths";
  for (size_t i = 1; i < p.offsets.size(); i++) text += " " + std::to_string(p.offsets[i] - p.offsets[i - 1]);
  return text;
}

SequenceSet packed(const Packed& p) {
  return {p.offsets.data(), static_cast<int>(p.offsets.size()) - 1, nullptr, nullptr, 0, 0};
}

template <int kD>
void check_forward(const Packed& p) {
  const Shape& s = p.shape;
  Halves out(p.out.size(), 0x7FC0);
  std::vector<float> lse(p.lse.size(), NAN);
  ForwardArguments a = {};
  a.q = p.q.data(), a.k = p.k.data(), a.v = p.v.data(), a.out = out.data(), a.lse = lse.data();
  a.sequences = packed(p);
  a.rows = p.rows, a.query_heads = s.query_heads, a.key_heads = s.key_heads, a.window = s.window;
  a.scale_log2 = static_cast<float>(s.scale) * kLog2E;
  const unsigned slots = slot_count(p.rows, a.sequences.count, ForwardTile<kD>::kQueries);
  emulation::launch({slots * s.query_heads}, kAttentionThreads, ForwardTile<kD>::kSharedBytes,
                    [&] { attention_forward_kernel<kD>(a); });
  expect_close(describe("forward out", p), widen(out), p.out, 1e-2);
  expect_close(describe("forward lse", p), widen(lse), p.lse, 1e-4);
}

std::vector<float> floats(const Doubles& d) { return std::vector<float>(d.begin(), d.end()); }

/// delta, dq, dk and dv by the tiled kernels, from the float64 out rounded to bf16.
template <int kD>
void check_backward(const Packed& p) {
  const Shape& s = p.shape;
  Halves out(p.out.size()), dq(p.q.size(), 0x7FC0), dk(p.k.size(), 0x7FC0), dv(p.k.size(), 0x7FC0);
  for (size_t i = 0; i < out.size(); i++) out[i] = narrow(p.out[i]);
  const std::vector<float> lse = floats(p.lse);
  std::vector<float> delta(lse.size(), NAN);
  const int64_t chunks = static_cast<int64_t>(p.rows) * s.query_heads * (kD / 8);
  emulation::launch({static_cast<unsigned>((chunks + 255) / 256)}, 256, 0, [&] {
    attention_delta_kernel<kD>(delta.data(), out.data(), p.dout.data(), p.rows, s.query_heads);
  });
  const BackwardArguments a = {p.q.data(),  p.k.data(), p.v.data(), p.dout.data(), lse.data(),    delta.data(),
                               dq.data(),   dk.data(),  dv.data(),  packed(p),     p.rows,        s.query_heads,
                               s.key_heads, s.window,   static_cast<float>(s.scale)};
  const unsigned slots = slot_count(p.rows, a.sequences.count, 64);
  emulation::launch({slots * s.query_heads}, kAttentionThreads, QueryGradientTile<kD>::kSharedBytes,
                    [&] { attention_dq_kernel<kD>(a); });
  emulation::launch({slots * s.key_heads}, kAttentionThreads, KeyGradientTile<kD>::kSharedBytes,
                    [&] { attention_dkdv_kernel<kD>(a); });
  expect_close(describe("backward dq", p), widen(dq), p.dq, 1e-2);
  expect_close(describe("backward dk", p), widen(dk), p.dk, 1e-2);
  expect_close(describe("backward dv", p), widen(dv), p.dv, 1e-2);
}

/// All generic kernels in f32.
template <int kSlices>
void check_generic(const Packed& p) {
  const Shape& s = p.shape;
  std::vector<float> q = floats(widen(p.q)), k = floats(widen(p.k)), v = floats(widen(p.v)), dout = floats(widen(p.dout));
  std::vector<float> out(q.size(), NAN), dq(q.size(), NAN), dk(k.size(), NAN), dv(k.size(), NAN);
  std::vector<float> lse(p.lse.size(), NAN), delta(p.lse.size(), NAN);
  GenericArguments a = {};
  a.q = {q.data(), false}, a.k = {k.data(), false}, a.v = {v.data(), false}, a.out = {out.data(), false};
  a.dout = {dout.data(), false}, a.dq = {dq.data(), false}, a.dk = {dk.data(), false}, a.dv = {dv.data(), false};
  a.lse = lse.data(), a.delta = delta.data(), a.sequences = packed(p), a.rows = p.rows;
  a.query_heads = s.query_heads, a.key_heads = s.key_heads, a.d = s.d, a.window = s.window;
  a.scale = static_cast<float>(s.scale);
  const auto grid = [&](int heads) { return emulation::Dim3{static_cast<unsigned>((p.rows * heads + 3) / 4)}; };
  emulation::launch(grid(s.query_heads), 128, 0, [&] { attention_forward_generic<kSlices>(a); });
  emulation::launch(grid(s.query_heads), 128, 0, [&] { attention_delta_generic<kSlices>(a); });
  emulation::launch(grid(s.query_heads), 128, 0, [&] { attention_dq_generic<kSlices>(a); });
  emulation::launch(grid(s.key_heads), 128, 0, [&] { attention_dkdv_generic<kSlices>(a); });
  expect_close(describe("generic out", p), widen(out), p.out, 1e-5);
  expect_close(describe("generic lse", p), widen(lse), p.lse, 1e-5);
  expect_close(describe("generic dq", p), widen(dq), p.dq, 1e-5);
  expect_close(describe("generic dk", p), widen(dk), p.dk, 1e-5);
  expect_close(describe("generic dv", p), widen(dv), p.dv, 1e-5);
}

template <int kD>
void check_tiled(const Packed& p) {
  check_forward<kD>(p);
  check_backward<kD>(p);
}

void check(const Shape& s, const std::vector<int>& lengths) {
  const Packed p = draw(s, lengths);
  if (s.d == 64) check_tiled<64>(p);
  else if (s.d == 128) check_tiled<128>(p);
  else if (s.d < 128) check_generic<4>(p);
  else check_generic<16>(p);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  for (bool falling : {false, true}) {
    emulation::falling_order = falling;
    check({2, 1, 64, 0, 0.125}, {1, 17, 0, 129});
    check({2, 2, 128, 0, 0.088}, {33, 64, 100});
    check({7, 1, 64, 50, 0.125}, {130, 1, 5});
    check({2, 1, 128, 40, 0.088}, {150, 3});
    check({2, 1, 20, 0, 0.2}, {9, 0, 12});
    check({2, 2, 80, 7, 0.1}, {21});
    check({1, 1, 130, 0, 0.1}, {11, 4});
  }
  expect("no bank conflicts", emulation::bank_conflicts == 0);
  return failures != 0;
}
