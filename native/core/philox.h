// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC11): a counter-based generator,
// so a random number is a pure function of (seed, stream, element index) and there is no state to save.
// key = seed; counter = (index / 4, stream); element i takes word i mod 4 of its block. One round on counter words c
// with key words k: (hi(M₁c₂)^c₁^k₀, lo(M₁c₂), hi(M₀c₀)^c₃^k₁, lo(M₀c₀)), then k += the key constants.
#pragma once
#include <cstdint>

namespace lathe {

static constexpr uint32_t kPhiloxMul0 = 0xD2511F53u, kPhiloxMul1 = 0xCD9E8D57u;
static constexpr uint32_t kPhiloxKey0 = 0x9E3779B9u, kPhiloxKey1 = 0xBB67AE85u;
static constexpr int kPhiloxRounds = 10;

}  // namespace lathe
