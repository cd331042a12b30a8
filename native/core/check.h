// Sentences of argument checks: each names the argument and says what was expected and what came.
// Used by the checked_*.cc files only.
#pragma once
#include <initializer_list>
#include <vector>

#include "error.h"
#include "ops.h"

namespace lathe {

constexpr int64_t kAnySize = -1;

/// "f32 [3,4]".
std::string describe(In t);

/// Type in the set, rank = number of sizes, sizes equal where not kAnySize.
void expect(In t, const char* name, unsigned dtypes, std::initializer_list<int64_t> sizes);
void expect_dtype(In t, const char* name, unsigned dtypes);
void expect_count(In t, const char* name, int64_t elements);
/// expect() and the tensor may be written (not a file mapping).
void expect_out(Out t, const char* name, unsigned dtypes, std::initializer_list<int64_t> sizes);
void expect_writable(Out t, const char* name);

/// No byte in common.
void expect_disjoint(In a, const char* a_name, In b, const char* b_name);
/// No byte in common, or the same memory with the same element size (an op that runs in place).
void expect_same_or_disjoint(In a, const char* a_name, In b, const char* b_name);

/// The i32 values for a check: the tensor itself on the CPU; on another device the host's copy of it, or, when a
/// kernel wrote it, a copy that waits for the device. No values while a graph is recorded: it will run on others.
class IndexValues {
 public:
  explicit IndexValues(In t);
  bool known() const { return data_ != nullptr; }
  int32_t operator[](int64_t i) const { return data_[i]; }

 private:
  const int32_t* data_;
  std::vector<int32_t> copy_;
};

/// The first `length` bytes of the tensor on the host, in the same way; null where they are not known.
/// Throws when the tensor is shorter.
const char* host_bytes(In t, int64_t length);

/// Every element of the i32 tensor in [0, limit).
void expect_indices(In t, const char* name, int64_t limit);
/// expect_indices and no value twice.
void expect_distinct(In t, const char* name, int64_t limit);
/// i32 [S+1], first 0, last `total`, not decreasing.
void expect_offsets(In t, const char* name, int64_t total);

/// condition, else Error "name: message".
void expect_that(bool condition, const char* name, const char* message);

}  // namespace lathe
