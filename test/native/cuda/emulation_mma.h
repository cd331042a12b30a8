// The functions of native/cuda/mma.h, lane by lane: see emulation.h, which includes this.
#pragma once

namespace lathe::cuda {

template <bool kTranspose>
inline void emulate_load_matrix(uint32_t (&r)[4], const void* row) {
  const auto mine = reinterpret_cast<uintptr_t>(row);
  if (mine % 16 != 0) std::abort();
  const uint32_t words[2] = {static_cast<uint32_t>(mine), static_cast<uint32_t>(mine >> 32)};
  auto* all = emulation::exchange(words, 2);
  const int g = emulation::this_lane() / 4, t = emulation::this_lane() % 4;
  for (int m = 0; m < 4; m++) {
    unsigned groups = 0;  // of four banks, that the eight rows of a matrix lie in
    for (int i = 0; i < 8; i++) groups |= 1u << (all[m * 8 + i][0] / 16 % 8);
    emulation::bank_conflicts += 8 - __builtin_popcount(groups);
    const auto element = [&](int i, int j) {
      const uintptr_t at = all[m * 8 + i][0] | static_cast<uintptr_t>(all[m * 8 + i][1]) << 32;
      return static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(at)[j]);
    };
    r[m] = kTranspose ? element(2 * t, g) | element(2 * t + 1, g) << 16
                      : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
  }
  emulation::arrive_and_wait(emulation::this_warp().barrier);  // nobody overwrites the rows before all have read
}

inline void load_matrix(uint32_t (&r)[4], const void* row) { emulate_load_matrix<false>(r, row); }
inline void load_matrix_transposed(uint32_t (&r)[4], const void* row) { emulate_load_matrix<true>(r, row); }

inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  auto* all = emulation::exchange(words, 6);
  const int g = emulation::this_lane() / 4, t = emulation::this_lane() % 4;
  for (int e = 0; e < 4; e++) {
    const int row = g + (e >> 1) * 8, column = 2 * t + (e & 1);
    float sum = d[e];
    for (int k = 0; k < 16; k++) {
      const int pair = (k % 8) / 2, high = k / 8, shift = (k & 1) * 16;
      const uint32_t x = all[(row % 8) * 4 + pair][row / 8 + 2 * high] >> shift & 0xFFFF;
      const uint32_t y = all[column * 4 + pair][4 + high] >> shift & 0xFFFF;
      sum += emulation::bf16(x) * emulation::bf16(y);
    }
    d[e] = sum;
  }
}

inline void copy_async(void* to, const void* from, int bytes, bool valid) {
  const auto at = reinterpret_cast<uintptr_t>(to), source = reinterpret_cast<uintptr_t>(from);
  if (at % bytes != 0 || (valid && source % bytes != 0)) std::abort();
  emulation::block->threads[emulation::block->current].open.push_back({to, from, bytes, valid});
}
inline void copy_async16(void* to, const void* from, bool valid) { copy_async(to, from, 16, valid); }
inline void copy_async16_cached(void* to, const void* from, bool valid) { copy_async(to, from, 16, valid); }
inline void copy_async4(void* to, const void* from, bool valid) { copy_async(to, from, 4, valid); }

inline void commit_copies() {
  auto& self = emulation::block->threads[emulation::block->current];
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}

template <int kNewest>
inline void wait_copies() {
  auto& self = emulation::block->threads[emulation::block->current];
  while (self.groups.size() > kNewest) {
    for (const auto& c : self.groups.front()) {
      if (c.valid) std::memcpy(c.to, c.from, c.bytes);
      else std::memset(c.to, 0, c.bytes);
    }
    self.groups.erase(self.groups.begin());
  }
}

inline float as_float(uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline uint32_t as_bits(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline uint32_t pack_bf16(float low, float high) {
  const auto round = [](float x) {
    const uint32_t u = as_bits(x);
    return std::isnan(x) ? (u >> 16) | 0x40 : (u + 0x7FFF + ((u >> 16) & 1)) >> 16;
  };
  return round(low) | round(high) << 16;
}
inline float exp2_fast(float x) { return std::exp2(x); }
inline float load_global(const float* p) { return *p; }

}  // namespace lathe::cuda
