// Run-time choice of the instruction set: see dispatch.h.
#include "dispatch.h"

#include "error.h"

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
#endif

const std::vector<Isa>& isas() {
  static const auto* list = new std::vector<Isa>{
#if defined(__x86_64__)
      {"avx512bf16", has_bf16(), avx512bf16::table},
      {"avx512", has_avx512(), avx512::table},
      {"avx2", has_avx2(), avx2::table},
#endif
      {"generic", true, generic::table},
  };
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
  if (device != Device::cpu) throw Error(ErrorCode::internal, "no backend for this device");
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
