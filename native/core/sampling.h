// The arithmetic of sampleTokens, shared by every backend so that all of them draw the same token: integer masses,
// whose sums have no order, and f32 steps that are single IEEE operations everywhere (no contraction, no library exp).
// Knows neither threads nor tensors. Internal linkage: the CPU compiles it once per instruction set.
#pragma once
#include <cstdint>

#include "philox.h"

#if defined(__CUDACC__)
#define LATHE_BOTH __host__ __device__
#else
#define LATHE_BOTH
#endif

namespace lathe::sampling {

/// Columns of the settings: floats [N,4] and ints [N,8].
enum FloatColumn { kTemperature, kTopP, kFrequency, kPresence, kFloatColumns };
enum IntColumn { kTopK, kSeedLow, kSeedHigh, kStreamLow, kStreamHigh, kStep, kCountsRow, kMaskRow, kIntColumns };

static constexpr int kBins = 256;
static constexpr float kDeepest = 28.5f;  // e^−28.5 < 2^−41: beyond it a token has no mass

#if defined(__CUDA_ARCH__)
static __device__ __forceinline__ float exact_mul(float a, float b) { return __fmul_rn(a, b); }
static __device__ __forceinline__ float exact_add(float a, float b) { return __fadd_rn(a, b); }
static __device__ __forceinline__ uint32_t float_bits(float x) { return __float_as_uint(x); }
#else
static LATHE_BOTH inline float exact_mul(float a, float b) { return a * b; }
static LATHE_BOTH inline float exact_add(float a, float b) { return a + b; }
static LATHE_BOTH inline uint32_t float_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}
#endif

/// Rising integers for rising floats; −0 and 0 are one. Not for NaN.
static LATHE_BOTH inline uint32_t key_of(float x) {
  const uint32_t bits = float_bits(exact_add(x, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// How far below the peak, in units of the temperature; ≥ 0.
static LATHE_BOTH inline float depth_of(float x, float peak, float temperature) {
  return exact_add(peak, -x) / temperature;
}

/// 2⁴⁰·e^−depth, rounded down; relative error below 2⁻²¹. e^t = 2ⁿ·e^r, |r| ≤ ln2/2, e^r by its series.
static LATHE_BOTH inline uint64_t mass_of(float depth) {
  if (!(depth < kDeepest)) return 0;
  const float magic = 12582912.0f;  // 1.5·2²³: adding it rounds to an integer
  const float n = exact_add(exact_add(exact_mul(-depth, 1.44269504f), magic), -magic);
  float r = exact_add(-depth, exact_mul(n, -0.693359375f));  // the product is exact
  r = exact_add(r, exact_mul(n, 2.12194440e-4f));
  float p = 1.38888892e-3f;
  p = exact_add(exact_mul(p, r), 8.33333377e-3f);
  p = exact_add(exact_mul(p, r), 4.16666679e-2f);
  p = exact_add(exact_mul(p, r), 0.166666672f);
  p = exact_add(exact_mul(p, r), 0.5f);
  p = exact_add(exact_mul(p, r), 1.0f);
  p = exact_add(exact_mul(p, r), 1.0f);
  const uint64_t fixed = static_cast<uint64_t>(exact_mul(p, 16777216.0f));  // an integer already: p has 24 bits
  const int shift = 16 + static_cast<int>(n);
  return shift >= 0 ? fixed << shift : fixed >> -shift;
}

/// Coarse rank: 0 at the peak, rising with depth.
static LATHE_BOTH inline int bin_of(float depth) {
  return depth < kDeepest ? static_cast<int>(exact_mul(depth, kBins / kDeepest - 0.01f)) : kBins - 1;
}

/// Tokens that may be drawn: those with a larger key, and of those with this key the first `ties` by id. No number has
/// the key 0, so {0, 0} is all of them.
struct Cut {
  uint32_t key;
  int64_t ties;
};

/// Mass that the nucleus must reach; 1 ≤ needed ≤ total.
static LATHE_BOTH inline uint64_t needed_mass(float top_p, uint64_t total) {
  const double product = static_cast<double>(top_p) * static_cast<double>(total);
  const uint64_t needed = product < 1 ? 1 : static_cast<uint64_t>(product);
  return needed < total ? needed : total;
}

/// The search for a cut, best tokens first: coarse bins, then the key's bytes within the bin. shift: 32 for the bins,
/// then 24, 16, 8, 0; below that `prefix` is the cut's key.
struct Search {
  bool by_mass;  // else by count
  float peak, temperature;
  Cut within;    // only tokens of this cut
  int shift, bin;
  uint32_t prefix;
};

static LATHE_BOTH inline Search begin_search(bool by_mass, float peak, float temperature, const Cut& within) {
  return {by_mass, peak, temperature, within, 32, 0, 0};
}

/// Counter of this level for a token, best first; −1 when the search has left it behind.
static LATHE_BOTH inline int slot_of(const Search& s, uint32_t key, float depth) {
  const int bin = bin_of(depth);
  if (s.shift == 32) return bin;
  const uint64_t above = static_cast<uint64_t>(key) >> (s.shift + 8);
  if (bin != s.bin || above != static_cast<uint64_t>(s.prefix) >> (s.shift + 8)) return -1;
  return kBins - 1 - static_cast<int>(key >> s.shift & 255u);
}

static LATHE_BOTH inline uint64_t measure_of(const Search& s, float depth) { return s.by_mass ? mass_of(depth) : 1; }

/// The counter that holds what is sought becomes the next level's region.
static LATHE_BOTH inline void descend(Search& s, int slot) {
  if (s.shift == 32) s.bin = slot;
  else s.prefix |= static_cast<uint32_t>(kBins - 1 - slot) << s.shift;
  s.shift -= 8;
}

static LATHE_BOTH inline float value_of_key(uint32_t key) {
  const uint32_t bits = key & 0x80000000u ? key ^ 0x80000000u : ~key;
  float x;
#if defined(__CUDA_ARCH__)
  x = __uint_as_float(bits);
#else
  __builtin_memcpy(&x, &bits, 4);
#endif
  return x;
}

/// Measure of one token with this key.
static LATHE_BOTH inline uint64_t measure_of_key(const Search& s, uint32_t key) {
  return measure_of(s, depth_of(value_of_key(key), s.peak, s.temperature));
}

/// A cut that keeps everything.
static LATHE_BOTH inline Cut whole() { return {0, 0}; }

static LATHE_BOTH inline uint64_t high_product(uint64_t a, uint64_t b) {
#if defined(__CUDA_ARCH__)
  return __umul64hi(a, b);
#else
  __extension__ typedef unsigned __int128 Wide;
  return static_cast<uint64_t>((static_cast<Wide>(a) * b) >> 64);
#endif
}

/// Number `step` of the stream (seed, stream) as 53 random bits: Philox4x32-10, the first two words.
static LATHE_BOTH inline uint64_t uniform53(const int32_t* ints) {
  uint32_t c0 = static_cast<uint32_t>(ints[kStep]), c1 = 0, c2 = static_cast<uint32_t>(ints[kStreamLow]);
  uint32_t c3 = static_cast<uint32_t>(ints[kStreamHigh]);
  uint32_t k0 = static_cast<uint32_t>(ints[kSeedLow]), k1 = static_cast<uint32_t>(ints[kSeedHigh]);
  for (int round = 0; round < kPhiloxRounds; round++) {
    const uint64_t p0 = static_cast<uint64_t>(kPhiloxMul0) * c0, p1 = static_cast<uint64_t>(kPhiloxMul1) * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += kPhiloxKey0;
    k1 += kPhiloxKey1;
  }
  return static_cast<uint64_t>(c0 >> 5) << 26 | c1 >> 6;
}

/// ⌊u·total⌋ for u = bits/2⁵³: the first token whose running mass exceeds it is drawn. total < 2⁶¹.
static LATHE_BOTH inline uint64_t draw_target(uint64_t bits, uint64_t total) {
  return high_product(bits, total) << 11 | (bits * total) >> 53;
}

}  // namespace lathe::sampling
