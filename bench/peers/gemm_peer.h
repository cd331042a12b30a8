// What the peers of the matrix product share: requests and answers as lines of JSON (peer-process.ts), inputs, clock.
//   {"run": "shape <f32|bf16> <m> <n> <k> <plain|packed> <seed>"} → {"seconds": …, "values": [some elements of y]}
//   {"run": "calls <number>"}                                     → {"seconds": of all, after one call outside the clock}
// y [m, n] = x [m, k] · wᵀ, w [n, k]; anything that goes wrong ends the program with a sentence on stderr.
#pragma once
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

constexpr int64_t kCompared = 4096;  // elements of y that are handed over, evenly spread

inline uint16_t to_bf16(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return static_cast<uint16_t>((u + 0x7FFF + (u >> 16 & 1)) >> 16);
}

inline float from_bf16(uint16_t h) {
  const uint32_t u = static_cast<uint32_t>(h) << 16;
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}

/// A matrix in its type; `seed` gives the same numbers in [−1, 1) as seededNumbers in bench/gemm.ts.
struct Matrix {
  bool half = false;
  std::vector<float> floats;
  std::vector<uint16_t> halves;

  void fill(bool bf16, int64_t size, uint32_t seed) {
    half = bf16;
    floats.assign(half ? 0 : size, 0);
    halves.assign(half ? size : 0, 0);
    for (int64_t i = 0; i < size; i++) {
      seed = seed * 1664525u + 1013904223u;
      const float x = static_cast<float>(seed >> 8) / 8388608.0f - 1.0f;
      if (half) {
        halves[i] = to_bf16(x);
      } else {
        floats[i] = x;
      }
    }
  }
  void* data() { return half ? static_cast<void*>(halves.data()) : floats.data(); }
  float at(int64_t i) const { return half ? from_bf16(halves[i]) : floats[i]; }
};

struct Shape {
  std::string dtype, weights;
  int64_t m, n, k;
  bool half() const { return dtype == "bf16"; }
};

[[noreturn]] inline void fail(const std::string& sentence) {
  std::cerr << sentence << std::endl;
  std::exit(1);
}

inline double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Answers lines until stdin ends. prepare(shape, x, w, y) returns the call that is timed.
template <class Prepare>
int serve(const std::string& version, const Prepare& prepare) {
  Matrix x, w, y;
  std::function<void()> product;
  std::printf("{\"ready\": true, \"version\": \"%s\"}\n", version.c_str());
  std::fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    // {"run":"…"}: what lies between the last two quotes.
    const size_t close = line.rfind('"'), open = close == std::string::npos ? close : line.rfind('"', close - 1);
    if (open == std::string::npos) fail("not a request: " + line);
    std::istringstream in(line.substr(open + 1, close - open - 1));
    std::string command;
    in >> command;
    if (command == "shape") {
      Shape s;
      uint32_t seed;
      if (!(in >> s.dtype >> s.m >> s.n >> s.k >> s.weights >> seed)) fail("not a shape: " + line);
      x.fill(s.half(), s.m * s.k, seed);
      w.fill(s.half(), s.n * s.k, seed + 1);
      y.fill(s.half(), s.m * s.n, seed + 2);
      product = prepare(s, x, w, y);
      std::printf("{\"seconds\": %.9g, \"values\": [", seconds_of(product));
      const int64_t size = s.m * s.n, step = size > kCompared ? size / kCompared : 1;
      for (int64_t i = 0; i < size; i += step) std::printf(i ? ",%.9g" : "%.9g", static_cast<double>(y.at(i)));
      std::printf("]}\n");
    } else if (command == "calls" && product) {
      int calls = 0;
      if (!(in >> calls) || calls < 1) fail("not a number of calls: " + line);
      product();
      const double passed = seconds_of([&] {
        for (int i = 0; i < calls; i++) product();
      });
      std::printf("{\"seconds\": %.9g}\n", passed);
    } else {
      fail("unknown request: " + line);
    }
    std::fflush(stdout);
  }
  return 0;
}
