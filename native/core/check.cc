// Argument checks: see check.h.
#include "check.h"

#include "backend.h"
#include "host_copy.h"

namespace lathe {
namespace {

std::string dtype_names(unsigned dtypes) {
  std::string names;
  for (DType d : {DType::f32, DType::bf16, DType::i32, DType::u8}) {
    if (dtypes & (1u << static_cast<unsigned>(d))) names += (names.empty() ? "" : "|") + std::string(dtype_name(d));
  }
  return names;
}

std::string shape_text(const int64_t* sizes, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; i++) {
    text += (i ? "," : "") + (sizes[i] == kAnySize ? std::string("*") : std::to_string(sizes[i]));
  }
  return text + "]";
}

bool overlaps(In a, In b) {
  const auto* a0 = static_cast<const char*>(a.data);
  const auto* b0 = static_cast<const char*>(b.data);
  return a0 < b0 + byte_count(b) && b0 < a0 + byte_count(a);
}

}  // namespace

std::string describe(In t) {
  return std::string(dtype_name(t.dtype)) + " " + shape_text(t.dims, static_cast<size_t>(t.rank));
}

void expect_dtype(In t, const char* name, unsigned dtypes) {
  if (dtypes & (1u << static_cast<unsigned>(t.dtype))) return;
  invalid(name, "expected " + dtype_names(dtypes) + ", got " + describe(t));
}

void expect(In t, const char* name, unsigned dtypes, std::initializer_list<int64_t> sizes) {
  bool same = static_cast<size_t>(t.rank) == sizes.size();
  for (size_t i = 0; same && i < sizes.size(); i++) {
    const int64_t want = sizes.begin()[i];
    same = want == kAnySize || want == t.dims[i];
  }
  if (same && (dtypes & (1u << static_cast<unsigned>(t.dtype)))) return;
  invalid(name, "expected " + dtype_names(dtypes) + " " + shape_text(sizes.begin(), sizes.size()) + ", got " +
                    describe(t));
}

void expect_count(In t, const char* name, int64_t elements) {
  if (element_count(t) == elements) return;
  invalid(name, "expected " + std::to_string(elements) + " elements, got " + describe(t));
}

void expect_writable(Out t, const char* name) {
  forget_host_copy(t);
  if (!t.writable) invalid(name, "is a read-only file mapping");
}

void expect_out(Out t, const char* name, unsigned dtypes, std::initializer_list<int64_t> sizes) {
  expect(t, name, dtypes, sizes);
  expect_writable(t, name);
}

void expect_disjoint(In a, const char* a_name, In b, const char* b_name) {
  if (overlaps(a, b)) invalid(a_name, std::string("overlaps ") + b_name);
}

void expect_same_or_disjoint(In a, const char* a_name, In b, const char* b_name) {
  if (a.data == b.data && a.dtype == b.dtype && element_count(a) == element_count(b)) return;
  if (overlaps(a, b)) invalid(a_name, std::string("partly overlaps ") + b_name);
}

IndexValues::IndexValues(In t) : data_(i32_data(t)) {
  if (t.device == Device::cpu) return;
  const int64_t bytes = byte_count(t);
  data_ = t.host ? reinterpret_cast<const int32_t*>(t.host->find(t.data, bytes)) : nullptr;
  if (data_ || backend_for(t.device).capturing()) return;
  copy_.resize(static_cast<size_t>(element_count(t)) + 1);
  backend_for(t.device).download(copy_.data(), t.data, bytes);
  data_ = copy_.data();
}

const char* host_bytes(In t, int64_t length) {
  if (byte_count(t) < length) throw Error(ErrorCode::internal, "host_bytes: the tensor is shorter");
  if (t.device == Device::cpu) return static_cast<const char*>(t.data);
  return t.host ? t.host->find(t.data, length) : nullptr;
}

void expect_indices(In t, const char* name, int64_t limit) {
  const IndexValues values(t);
  const int64_t n = values.known() ? element_count(t) : 0;
  for (int64_t i = 0; i < n; i++) {
    if (values[i] < 0 || values[i] >= limit) {
      invalid(name, "element " + std::to_string(i) + " is " + std::to_string(values[i]) + ", outside [0," +
                        std::to_string(limit) + ")");
    }
  }
}

void expect_distinct(In t, const char* name, int64_t limit) {
  expect_indices(t, name, limit);
  const IndexValues values(t);
  const int64_t n = values.known() ? element_count(t) : 0;
  std::vector<bool> seen(static_cast<size_t>(limit));
  for (int64_t i = 0; i < n; i++) {
    const auto v = static_cast<size_t>(values[i]);
    if (seen[v]) invalid(name, "value " + std::to_string(values[i]) + " appears twice");
    seen[v] = true;
  }
}

void expect_offsets(In t, const char* name, int64_t total) {
  expect(t, name, kI32, {kAnySize});
  const IndexValues values(t);
  const int64_t n = t.dims[0];
  if (n < 1) invalid(name, "must start with 0");
  if (!values.known()) return;
  if (values[0] != 0) invalid(name, "must start with 0");
  for (int64_t i = 1; i < n; i++) {
    if (values[i] < values[i - 1]) invalid(name, "decreases at element " + std::to_string(i));
  }
  if (values[n - 1] != total) {
    invalid(name, "must end with " + std::to_string(total) + ", got " + std::to_string(values[n - 1]));
  }
}

void expect_that(bool condition, const char* name, const char* message) {
  if (!condition) invalid(name, message);
}

}  // namespace lathe
