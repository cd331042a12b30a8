// What the multipliers of this processor give when nothing is read from memory: one line of JSON, FLOP/s of all threads
// together (first argument: how many), the best of several runs. Tiles are left out where the processor has none.
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr int kRuns = 7;

/// Seconds per FLOP and loop: fused multiply-adds in as many chains as hide their latency.
double fma_seconds(int loops) {
#if defined(__AVX512F__)
  typedef __m512 Vector;
#else
  typedef __m256 Vector;
#endif
  constexpr int kChains = sizeof(Vector) == 64 ? 24 : 12;
  Vector sums[kChains], factor = Vector{} + 1.0000001f, addend = Vector{} + 1e-9f;
  for (int i = 0; i < kChains; i++) sums[i] = addend * static_cast<float>(i);
  const auto start = std::chrono::steady_clock::now();
  for (int l = 0; l < loops; l++) {
#pragma GCC unroll 24
    for (int i = 0; i < kChains; i++) sums[i] = sums[i] * factor + addend;
    __asm__ volatile("" : "+v"(factor));
  }
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  Vector total = sums[0];
  for (int i = 1; i < kChains; i++) total += sums[i];
  __asm__ volatile("" ::"v"(total));
  return passed.count() / (kChains * 2.0 * sizeof(Vector) / 4);
}

#if defined(__AMX_BF16__)
double tile_seconds(int loops) {
  alignas(64) uint8_t config[64] = {1};
  for (int t = 0; t < 8; t++) {
    config[16 + 2 * t] = 64;
    config[48 + t] = 16;
  }
  __asm__ volatile("" ::"r"(config) : "memory");
  _tile_loadconfig(config);
  alignas(64) uint16_t numbers[512];
  for (int i = 0; i < 512; i++) numbers[i] = static_cast<uint16_t>(0x3F00 + i * 40503 % 128 + i % 2 * 0x8000);
  __asm__ volatile("" ::"r"(numbers) : "memory");
  _tile_loadd(4, numbers, 64);
  _tile_loadd(5, numbers, 64);
  _tile_loadd(6, numbers, 64);
  _tile_loadd(7, numbers, 64);
  const auto start = std::chrono::steady_clock::now();
  for (int l = 0; l < loops; l++) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  _tile_release();
  return passed.count() / (4 * 2.0 * 16 * 16 * 32);
}
#endif

/// FLOP/s of `threads` threads: f gives seconds per FLOP and loop.
template <class F>
double peak(int threads, int loops, const F& f) {
  double best = 0;
  for (int run = 0; run < kRuns; run++) {
    std::vector<double> seconds(threads);
    std::vector<std::thread> others;
    for (int t = 1; t < threads; t++) others.emplace_back([&, t] { seconds[t] = f(loops); });
    seconds[0] = f(loops);
    for (std::thread& other : others) other.join();
    double sum = 0;
    for (double s : seconds) sum += loops / s;
    best = sum > best ? sum : best;
  }
  return best;
}

}  // namespace

int main(int count, char** arguments) {
  const int threads = count > 1 ? std::atoi(arguments[1]) : 1;
  if (threads < 1) {
    std::fprintf(stderr, "usage: peak <threads>\n");
    return 2;
  }
  std::printf("{\"fma\": %.6g", peak(threads, 2000000, fma_seconds));
#if defined(__AMX_BF16__)
  syscall(SYS_arch_prctl, 0x1023, 18);  // ARCH_REQ_XCOMP_PERM for the tiles' state
  std::printf(", \"tiles\": %.6g", peak(threads, 400000, tile_seconds));
#endif
  std::printf("}\n");
  return 0;
}
