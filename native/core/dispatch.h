// Chooses the backend table: by device, and on the CPU by instruction set. Knows no op.
#pragma once
#include <string>
#include <vector>

#include "ops.h"

namespace lathe {

/// Entry points of the per-ISA tables (cpu/table.cc is compiled once for each).
namespace amx {
const Ops& table();
}
namespace avx512bf16 {
const Ops& table();
}
namespace avx512 {
const Ops& table();
}
namespace avx2 {
const Ops& table();
}
namespace generic {
const Ops& table();
}

/// The table of the device, for the instruction set in use.
const Ops& ops_for(Device device);

/// Instruction sets built in and supported by this CPU, best first; "generic" is always last.
std::vector<std::string> supported_isas();
std::string current_isa();
/// Throws Error(invalid_argument) when `isa` is not among supported_isas().
void select_isa(const std::string& isa);

}  // namespace lathe
