// The parts of the checked table, one per checked_*.cc file.
#pragma once
#include "ops.h"

namespace lathe {

void add_checked_elementwise(Ops& table);
void add_checked_linear(Ops& table);
void add_checked_lora(Ops& table);
void add_checked_model(Ops& table);
void add_checked_attention(Ops& table);
void add_checked_serving(Ops& table);

/// The header of what packWeight or packWeightInt8 made; anything else is refused under `name`.
PackedHeader expect_packed(In packed, const char* name);

}  // namespace lathe
