// Run-time choice of the instruction set: see dispatch.h.
#include "dispatch.h"

#include "backend.h"
#include "error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace lathe {
namespace {

struct Isa {
  const char* name;
  bool supported;
  const Ops& (*table)();
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
/// Tiles are state that the kernel saves only for processes that asked for it.
bool has_amx() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM), XFEATURE_XTILEDATA
  unsigned a = 7, b = 0, c = 0, d = 0;
  __cpuid_count(7, 0, a, b, c, d);
  const bool tiles = (d >> 24 & 1) && (d >> 22 & 1) && (d >> 25 & 1);  // AMX-TILE, AMX-BF16, AMX-INT8
  return has_bf16() && tiles && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#endif

/// Best first. vdpbf16ps does two multiply-adds per lane: Zen 4 starts one a cycle per FMA pair, twice the rate of
/// its FMAs; Intel's cores start one every other cycle, half the rate of theirs (measured: 121 against 243
/// GFLOP/s), so there bf16 is widened and goes through FMA.
const std::vector<Isa>& isas() {
#if defined(__x86_64__)
  static const Isa bf16 = {"avx512bf16", has_bf16(), avx512bf16::table};
  static const Isa wide = {"avx512", has_avx512(), avx512::table};
  static const bool dot_is_faster = __builtin_cpu_is("amd");
  static const Isa tiles = {"amx", has_amx(), amx::table};
  static const auto* list = new std::vector<Isa>{tiles,
                                                 dot_is_faster ? bf16 : wide,
                                                 dot_is_faster ? wide : bf16,
                                                 {"avx2", has_avx2(), avx2::table},
                                                 {"generic", true, generic::table}};
#else
  static const auto* list = new std::vector<Isa>{{"generic", true, generic::table}};
#endif
  return *list;
}

const Isa*& selected() {
  static const Isa* isa = nullptr;
  for (const Isa& candidate : isas()) {
    if (!isa && candidate.supported) isa = &candidate;
  }
  return isa;
}

}  // namespace

const Ops& ops_for(Device device) {
  if (device != Device::cpu) return backend_for(device).ops();
  return selected()->table();
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : isas()) {
    if (isa.supported) names.push_back(isa.name);
  }
  return names;
}

std::string current_isa() { return selected()->name; }

void select_isa(const std::string& name) {
  std::string known;
  for (const Isa& isa : isas()) {
    if (!isa.supported) continue;
    if (isa.name == name) {
      selected() = &isa;
      return;
    }
    known += (known.empty() ? "" : ", ") + std::string(isa.name);
  }
  invalid("isa", "'" + name + "' is not one of: " + known);
}

}  // namespace lathe
