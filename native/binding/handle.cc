// Tensor handles: see handle.h.
#include "handle.h"

namespace lathe::binding {
namespace {

constexpr napi_type_tag kTensorTag = {0x6c61746865746e73ull, 0x9b1f4c0e27d35a81ull};

void collect(Napi::Env, TensorObject* object) { delete object; }

}  // namespace

std::vector<std::shared_ptr<Storage>>*& recording() {
  static thread_local std::vector<std::shared_ptr<Storage>>* storages = nullptr;
  return storages;
}

Napi::Value make_handle(Napi::Env env, std::shared_ptr<Storage> storage, const Tensor& view) {
  auto object = std::make_unique<TensorObject>();
  object->storage = std::move(storage);
  object->view = view;
  const auto external = Napi::External<TensorObject>::New(env, object.get(), collect);
  object.release();
  external.TypeTag(&kTensorTag);
  return external;
}

TensorObject& handle_object(Napi::Value value, const char* argument, bool freed_allowed) {
  if (!value.IsExternal() || !value.As<Napi::External<TensorObject>>().CheckTypeTag(&kTensorTag)) {
    invalid(argument, "expected a tensor handle");
  }
  TensorObject& object = *value.As<Napi::External<TensorObject>>().Data();
  if (!object.storage && !freed_allowed) invalid(argument, "the tensor was freed");
  return object;
}

}  // namespace lathe::binding
