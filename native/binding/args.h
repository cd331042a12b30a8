// JavaScript values to C++ parameters, by the parameter's type. Every failure names the argument.
#pragma once
#include <napi.h>

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "../core/error.h"
#include "../core/recording.h"
#include "../core/tensor.h"
#include "handle.h"

namespace lathe::binding {

constexpr double kMaxSafeInteger = 9007199254740991.0;

inline bool absent(Napi::Value v) { return v.IsNull() || v.IsUndefined(); }

inline double finite_number(Napi::Value v, const char* name) {
  if (!v.IsNumber()) invalid(name, "expected a number");
  const double x = v.As<Napi::Number>().DoubleValue();
  if (!std::isfinite(x)) invalid(name, "expected a finite number");
  return x;
}

inline int64_t safe_integer(Napi::Value v, const char* name) {
  const double x = finite_number(v, name);
  if (x != std::floor(x) || std::fabs(x) > kMaxSafeInteger) invalid(name, "expected a safe integer");
  return static_cast<int64_t>(x);
}

/// Seeds and streams: a safe integer ≥ 0, or a bigint of 64 bits.
inline uint64_t unsigned_word(Napi::Value v, const char* name) {
  if (v.IsBigInt()) {
    bool lossless = false;
    const uint64_t x = v.As<Napi::BigInt>().Uint64Value(&lossless);
    if (!lossless) invalid(name, "expected an unsigned 64-bit integer");
    return x;
  }
  const int64_t x = safe_integer(v, name);
  if (x < 0) invalid(name, "must not be negative");
  return static_cast<uint64_t>(x);
}

inline std::string text(Napi::Value v, const char* name) {
  if (!v.IsString()) invalid(name, "expected a string");
  return v.As<Napi::String>().Utf8Value();
}

inline Device parse_device(Napi::Value v, const char* name) {
  const std::string s = text(v, name);
  if (s == "cpu") return Device::cpu;
  if (s == "cuda") return Device::cuda;
  invalid(name, "'" + s + "' is not one of cpu, cuda");
}

/// Bytes of a typed array or DataView. A detached buffer has length 0.
struct Bytes {
  void* data = nullptr;
  size_t length = 0;

  Bytes(Napi::Value v, const char* name) {
    if (v.IsTypedArray()) {
      const auto array = v.As<Napi::TypedArray>();
      length = array.ByteLength();
      data = length ? static_cast<char*>(array.ArrayBuffer().Data()) + array.ByteOffset() : nullptr;
    } else if (v.IsDataView()) {
      const auto view = v.As<Napi::DataView>();
      length = view.ByteLength();
      data = length ? view.Data() : nullptr;
    } else {
      invalid(name, "expected a typed array, Buffer or DataView");
    }
  }
};

/// Holds one converted argument for the duration of a call.
template <class T>
struct Argument;

/// Tensors of one call; while a graph is recorded, also keeps their memory for as long as the graph lives.
inline const Tensor& tensor_of(Napi::Value v, const char* name) {
  const TensorObject& object = handle_object(v, name);
  if (recording() && !object.storage->made_in_recording()) recording()->push_back(object.storage);
  return object.view;
}

template <>
struct Argument<const Tensor&> {
  const Tensor* value;
  Argument(Napi::Value v, const char* name) : value(&tensor_of(v, name)) {}
  const Tensor& get() const { return *value; }
};

template <>
struct Argument<const Tensor*> {
  const Tensor* value;
  Argument(Napi::Value v, const char* name) : value(absent(v) ? nullptr : &tensor_of(v, name)) {}
  const Tensor* get() const { return value; }
};

/// An array of handles; the views are copied side by side.
template <>
struct Argument<const TensorList&> {
  std::vector<Tensor> views;
  mutable TensorList value = {};
  Argument(Napi::Value v, const char* name) {
    if (!v.IsArray()) invalid(name, "expected an array of tensor handles");
    const auto array = v.As<Napi::Array>();
    views.reserve(array.Length());
    for (uint32_t i = 0; i < array.Length(); i++) views.push_back(tensor_of(array.Get(i), name));
  }
  const TensorList& get() const { return value = {views.data(), static_cast<int64_t>(views.size())}; }
};

template <>
struct Argument<float> {
  float value;
  Argument(Napi::Value v, const char* name) : value(static_cast<float>(finite_number(v, name))) {
    if (!std::isfinite(value)) invalid(name, "does not fit a 32-bit float");
  }
  float get() const { return value; }
};

template <>
struct Argument<double> {
  double value;
  Argument(Napi::Value v, const char* name) : value(finite_number(v, name)) {}
  double get() const { return value; }
};

template <>
struct Argument<int64_t> {
  int64_t value;
  Argument(Napi::Value v, const char* name) : value(safe_integer(v, name)) {}
  int64_t get() const { return value; }
};

template <>
struct Argument<uint64_t> {
  uint64_t value;
  Argument(Napi::Value v, const char* name) : value(unsigned_word(v, name)) {}
  uint64_t get() const { return value; }
};

template <>
struct Argument<bool> {
  bool value;
  Argument(Napi::Value v, const char* name) : value(false) {
    if (!v.IsBoolean()) invalid(name, "expected a boolean");
    value = v.As<Napi::Boolean>().Value();
  }
  bool get() const { return value; }
};

/// What the host would read or write now is not what a recorded op will see.
inline void refuse_while_recording(const Tensor& view, const char* name) {
  if (view.device == Device::cpu && cpu_recording()) invalid(name, "cannot be read or written while ops are recorded");
}

/// "c a b" → {"c", "a", "b"}.
inline std::vector<std::string> split_names(const std::string& names) {
  std::vector<std::string> list;
  size_t begin = 0;
  while (begin < names.size()) {
    const size_t end = std::min(names.find(' ', begin), names.size());
    list.push_back(names.substr(begin, end - begin));
    begin = end + 1;
  }
  return list;
}

}  // namespace lathe::binding
