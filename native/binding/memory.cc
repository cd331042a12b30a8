// Creating, viewing, reading and writing tensors.
#include <cstring>

#include "../core/backend.h"
#include "args.h"
#include "export.h"

namespace lathe::binding {
namespace {

DType parse_dtype(Napi::Value v, const char* name) {
  const std::string s = text(v, name);
  for (DType d : {DType::f32, DType::bf16, DType::i32, DType::u8}) {
    if (s == dtype_name(d)) return d;
  }
  invalid(name, "'" + s + "' is not one of f32, bf16, i32, u8");
}

/// Fills dims and rank; returns the size in bytes, checked.
int64_t parse_dims(Napi::Value v, Tensor& view) {
  if (!v.IsArray()) invalid("dims", "expected an array");
  const auto dims = v.As<Napi::Array>();
  if (dims.Length() < 1 || dims.Length() > kMaxRank) invalid("dims", "expected 1 to 4 sizes");
  view.rank = static_cast<int32_t>(dims.Length());
  int64_t bytes = dtype_bytes(view.dtype);
  for (uint32_t i = 0; i < dims.Length(); i++) {
    view.dims[i] = safe_integer(dims.Get(i), "dims");
    if (view.dims[i] < 0) invalid("dims", "must not be negative");
    bytes = checked_mul(bytes, view.dims[i]);
  }
  return bytes;
}

Napi::Value tensor_create(const Napi::CallbackInfo& info) {
  Tensor view = {};
  view.dtype = parse_dtype(info[0], "dtype");
  const int64_t bytes = parse_dims(info[1], view);
  view.device = absent(info[2]) ? Device::cpu : parse_device(info[2], "device");
  auto storage = Storage::allocate(bytes, view.device);
  view.data = storage->data();
  view.writable = true;
  view.host = storage->host();
  return make_handle(info.Env(), std::move(storage), view);
}

Napi::Value tensor_view(const Napi::CallbackInfo& info) {
  const TensorObject& base = handle_object(info[0], "base");
  const int64_t offset = safe_integer(info[1], "byteOffset");
  Tensor view = base.view;
  view.dtype = absent(info[3]) ? base.view.dtype : parse_dtype(info[3], "dtype");
  const int64_t bytes = parse_dims(info[2], view), available = byte_count(base.view);
  if (offset < 0 || offset > available || bytes > available - offset) {
    invalid("byteOffset", std::to_string(bytes) + " bytes at " + std::to_string(offset) + " lie outside the base of " +
                              std::to_string(available));
  }
  view.data = static_cast<char*>(base.view.data) + offset;
  if (reinterpret_cast<uintptr_t>(view.data) % static_cast<uintptr_t>(dtype_bytes(view.dtype)) != 0) {
    invalid("byteOffset", std::string("is not aligned for ") + dtype_name(view.dtype));
  }
  return make_handle(info.Env(), base.storage, view);
}

Napi::Value tensor_free(const Napi::CallbackInfo& info) {
  handle_object(info[0], "h", true).storage.reset();
  return info.Env().Undefined();
}

Napi::Value tensor_info(const Napi::CallbackInfo& info) {
  const Tensor& view = handle_object(info[0], "h").view;
  const Napi::Env env = info.Env();
  Napi::Array dims = Napi::Array::New(env, static_cast<size_t>(view.rank));
  for (int i = 0; i < view.rank; i++) {
    dims.Set(static_cast<uint32_t>(i), Napi::Number::New(env, static_cast<double>(view.dims[i])));
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("dtype", Napi::String::New(env, dtype_name(view.dtype)));
  result.Set("dims", dims);
  result.Set("bytes", Napi::Number::New(env, static_cast<double>(byte_count(view))));
  return result;
}

char* checked_range(const Tensor& view, Napi::Value offset_value, size_t length, const char* name) {
  const int64_t offset = absent(offset_value) ? 0 : safe_integer(offset_value, "byteOffset");
  const int64_t available = byte_count(view);
  if (offset < 0 || offset > available || static_cast<int64_t>(length) > available - offset) {
    invalid(name, std::to_string(length) + " bytes at " + std::to_string(offset) + " do not fit a tensor of " +
                      std::to_string(available));
  }
  return static_cast<char*>(view.data) + offset;
}

Napi::Value tensor_write(const Napi::CallbackInfo& info) {
  const Tensor& view = handle_object(info[0], "h").view;
  refuse_while_recording(view, "h");
  if (!view.writable) invalid("h", "is a read-only file mapping");
  const Bytes source(info[1], "src");
  char* to = checked_range(view, info[2], source.length, "src");
  if (!source.length) return info.Env().Undefined();
  const auto length = static_cast<int64_t>(source.length);
  if (view.device == Device::cpu) {
    std::memcpy(to, source.data, source.length);
  } else {
    backend_for(view.device).upload(to, source.data, length);
    if (view.dtype == DType::i32) {
      view.host->note(to, source.data, length);
    } else {
      forget_host_copy(view);
    }
  }
  return info.Env().Undefined();
}

Napi::Value tensor_read(const Napi::CallbackInfo& info) {
  const Tensor& view = handle_object(info[0], "h").view;
  refuse_while_recording(view, "h");
  const Bytes target(info[1], "dst");
  const char* from = checked_range(view, info[2], target.length, "dst");
  if (!target.length) return info.Env().Undefined();
  if (view.device == Device::cpu) {
    std::memcpy(target.data, from, target.length);
  } else {
    backend_for(view.device).download(target.data, from, static_cast<int64_t>(target.length));
  }
  return info.Env().Undefined();
}

Napi::Value map_file(const Napi::CallbackInfo& info) {
  auto storage = Storage::map_file(text(info[0], "path"));
  Tensor view = {storage->data(), {storage->bytes()}, 1, DType::u8, Device::cpu, false};
  return make_handle(info.Env(), std::move(storage), view);
}

}  // namespace

void export_memory(Napi::Env, Napi::Object exports) {
  export_functions(exports, {
    {"tensorCreate", 2, 3, tensor_create},
    {"tensorView", 3, 4, tensor_view},
    {"tensorFree", 1, 1, tensor_free},
    {"tensorInfo", 1, 1, tensor_info},
    {"tensorWrite", 2, 3, tensor_write},
    {"tensorRead", 2, 3, tensor_read},
    {"mapFile", 1, 1, map_file},
  });
}

}  // namespace lathe::binding
