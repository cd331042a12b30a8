// Float64 references and random inputs for the emulated kernels: plain loops, no tiles, no tricks.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace reference {

using Halves = std::vector<uint16_t>;
using Doubles = std::vector<double>;

inline uint64_t random_state = 1;

/// In [0, 1): splitmix64.
inline double uniform() {
  uint64_t z = random_state += 0x9E3779B97F4A7C15ull;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return static_cast<double>((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
}
inline double normal() {
  return std::sqrt(-2 * std::log(1 - uniform())) * std::cos(6.283185307179586 * uniform());
}
inline int integer(int low, int high) { return low + static_cast<int>(uniform() * (high - low + 1)); }

inline double widen(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline uint16_t narrow(double x) {
  const float f = static_cast<float>(x);
  uint32_t u;
  std::memcpy(&u, &f, 4);
  return static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

inline Halves normals(size_t n, double deviation = 1) {
  Halves h(n);
  for (auto& x : h) x = narrow(deviation * normal());
  return h;
}
inline Doubles widen(const Halves& h) {
  Doubles d(h.size());
  for (size_t i = 0; i < h.size(); i++) d[i] = widen(h[i]);
  return d;
}
inline Doubles widen(const std::vector<float>& f) { return Doubles(f.begin(), f.end()); }

inline int failures = 0;

/// ‖actual − expected‖ / ‖expected‖ against the limit; NaN never passes.
inline void expect_close(const std::string& what, const Doubles& actual, const Doubles& expected, double limit) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); i++) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  const double error = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
  const bool good = actual.size() == expected.size() && error <= limit;
  if (!good) failures++;
  std::printf("%s %.2e (limit %.0e) %s\n", good ? "ok  " : "FAIL", error, limit, what.c_str());
}

inline void expect(const std::string& what, bool good) {
  if (!good) failures++;
  std::printf("%s %s\n", good ? "ok  " : "FAIL", what.c_str());
}

/// Causal grouped-query attention of one query row over given keys (rows of k and v) and its statistics.
struct Shape {
  int query_heads, key_heads, d, window;
  double scale;
};

struct RowResult {
  Doubles weights;  // over the visible keys [first, last]
  int first = 0;
  double lse = 0;
};

/// Softmax weights of query head h at `position`; key_row(j) names the row of k.
template <class KeyRow>
RowResult attend(const Shape& s, const double* q, const Doubles& k, int h, int position, const KeyRow& key_row) {
  RowResult r;
  r.first = s.window > 0 ? std::max(0, position - s.window + 1) : 0;
  const int head = h / (s.query_heads / s.key_heads);
  double best = -INFINITY, sum = 0;
  for (int j = r.first; j <= position; j++) {
    double dot = 0;
    for (int c = 0; c < s.d; c++) dot += q[c] * k[(static_cast<size_t>(key_row(j)) * s.key_heads + head) * s.d + c];
    r.weights.push_back(dot * s.scale);
    best = std::max(best, dot * s.scale);
  }
  for (double& w : r.weights) sum += w = std::exp(w - best);
  for (double& w : r.weights) w /= sum;
  r.lse = best + std::log(sum);
  return r;
}

/// Offsets of sequences of the given lengths.
inline std::vector<int> offsets(const std::vector<int>& lengths) {
  std::vector<int> o = {0};
  for (int n : lengths) o.push_back(o.back() + n);
  return o;
}

}  // namespace reference
