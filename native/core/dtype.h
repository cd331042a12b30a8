// Element types of tensors. Included by kernel files that are compiled once per instruction set, so every
// function here has internal linkage: a shared inline copy could carry the wrong instructions (ODR).
#pragma once
#include <cstdint>

namespace lathe {

enum class DType : uint8_t { f32 = 0, bf16 = 1, i32 = 2, u8 = 3 };

/// Bit sets of element types, for argument checks.
enum DTypeSet : unsigned {
  kF32 = 1u << 0,
  kBf16 = 1u << 1,
  kI32 = 1u << 2,
  kU8 = 1u << 3,
  kFloat = kF32 | kBf16,
  kAny = kF32 | kBf16 | kI32 | kU8,
};

/// Size of one element in bytes.
static constexpr int64_t dtype_bytes(DType d) {
  return d == DType::f32 || d == DType::i32 ? 4 : d == DType::bf16 ? 2 : 1;
}

static constexpr const char* dtype_name(DType d) {
  return d == DType::f32 ? "f32" : d == DType::bf16 ? "bf16" : d == DType::i32 ? "i32" : "u8";
}

}  // namespace lathe
