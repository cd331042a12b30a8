// Dropout and random fills: Philox words of consecutive elements, four per block.
#include "../core/philox.h"
#include "ops_parts.h"
#include "parallel.h"
#include "vector_math.h"

namespace lathe::LATHE_ISA {
namespace {

constexpr int kWords = 64;  // words made at a time: whole blocks, whole vectors

typedef uint64_t VL __attribute__((vector_size(W * 4)));
constexpr int kBlocks = W / 2;  // Philox blocks side by side, one per 64-bit lane

/// Product of the low halves of the lanes.
inline VL multiply_low(VL a, VL b) {
#if defined(__AVX512F__)
  return (VL)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (VL)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (VL)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xFFFFFFFFu) * (b & 0xFFFFFFFFu);
#endif
}

/// Philox (core/philox.h) of blocks first, first+1, …: words[4·block + word]. The upper halves of the state are
/// left dirty between rounds: the products do not look at them.
void philox_blocks(uint64_t seed, uint64_t stream, uint64_t first, uint32_t* words) {
  VL index = VL{} + first;
  for (int i = 0; i < kBlocks; i++) index[i] += static_cast<uint64_t>(i);
  VL c0 = index, c1 = index >> 32, c2 = VL{} + stream, c3 = VL{} + (stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; round++) {
    const VL p0 = multiply_low(c0, VL{} + kPhiloxMul0), p1 = multiply_low(c2, VL{} + kPhiloxMul1);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
    k0 += kPhiloxKey0;
    k1 += kPhiloxKey1;
  }
  const VL low = (c0 & 0xFFFFFFFFu) | (c1 << 32), high = (c2 & 0xFFFFFFFFu) | (c3 << 32);
  alignas(64) uint64_t pairs[2][kBlocks];
  *reinterpret_cast<VL*>(pairs[0]) = low;
  *reinterpret_cast<VL*>(pairs[1]) = high;
  for (int i = 0; i < kBlocks; i++) {
    __builtin_memcpy(words + 4 * i, &pairs[0][i], 8);
    __builtin_memcpy(words + 4 * i + 2, &pairs[1][i], 8);
  }
}

/// The words of elements [begin, begin + kWords); begin a multiple of 4.
void random_words(uint64_t seed, uint64_t stream, int64_t begin, uint32_t* words) {
  for (int b = 0; b < kWords / 4; b += kBlocks) {
    philox_blocks(seed, stream, static_cast<uint64_t>(begin / 4 + b), words + 4 * b);
  }
}

/// f(i, n, words of elements i…i+n) over all vectors of `count` elements.
template <class F>
void each_random(int64_t count, uint64_t seed, uint64_t stream, const F& f) {
  parallel_ranges(count, kElementGrain, [&](int64_t begin, int64_t end) {
    alignas(64) uint32_t words[kWords];
    for (int64_t i = begin; i < end; i += kWords) {
      random_words(seed, stream, i, words);
      each_vector(min(kWords, end - i), [&](int64_t j, int n) {
        f(i + j, n, *reinterpret_cast<const VUm*>(words + j));
      });
    }
  });
}

/// y = mask·x/(1−p); the mask depends on (seed, stream) only, so the backward is the same function of dy.
void dropout(Out y, In x, float p, uint64_t seed, uint64_t stream) {
  const FloatRef ry(y), rx(x);
  const auto threshold = static_cast<uint32_t>(static_cast<double>(p) * 4294967296.0);
  const VF factor = vset(1.0f / (1.0f - p));
  each_random(element_count(y), seed, stream, [&](int64_t i, int n, VU word) {
    const VI keep = (VI)(word >= vuset(threshold));
    store(ry, i, vselect(keep, load(rx, i, n) * factor, VF{}), n);
  });
}

void dropoutForward(Out y, In x, float p, uint64_t seed, uint64_t stream) { dropout(y, x, p, seed, stream); }

// Forward: y = mask·x/(1−p).
void dropoutBackward(Out dx, In dy, float p, uint64_t seed, uint64_t stream) { dropout(dx, dy, p, seed, stream); }

/// 24 random bits as a float in [0,1).
inline VF unit(VU word) { return __builtin_convertvector((VI)(word >> 8), VF) * 5.9604644775390625e-8f; }

void randomUniform(Out x, float lo, float hi, uint64_t seed, uint64_t stream) {
  const FloatRef rx(x);
  each_random(element_count(x), seed, stream, [&](int64_t i, int n, VU word) {
    store(rx, i, fma(unit(word), vset(hi - lo), vset(lo)), n);
  });
}

/// Words (w0, w1) of a pair give u = (w0>>8 + 1)·2⁻²⁴ in (0,1] and the angle w1: r = √(−2 ln u), (r·cos, r·sin).
void randomNormal(Out x, float mean, float std, uint64_t seed, uint64_t stream) {
  const FloatRef rx(x);
  each_random(element_count(x), seed, stream, [&](int64_t i, int n, VU word) {
    VU first = word, second = word;  // each lane gets both words of its pair
    for (int j = 0; j < W; j += 2) {
      first[j + 1] = word[j];
      second[j] = word[j + 1];
    }
    const VF radius = vsqrt(vlog(unit(first) + 5.9604644775390625e-8f) * -2.0f);
    VF sine, cosine;
    sincos_turns(unit(second), &sine, &cosine);
    for (int j = 1; j < W; j += 2) cosine[j] = sine[j];
    store(rx, i, fma(radius * cosine, vset(std), vset(mean)), n);
  });
}

}  // namespace

void add_random(Ops& t) {
  t.dropoutForward = dropoutForward;
  t.dropoutBackward = dropoutBackward;
  t.randomUniform = randomUniform;
  t.randomNormal = randomNormal;
}

}  // namespace lathe::LATHE_ISA
