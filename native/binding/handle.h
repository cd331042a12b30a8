// A tensor as JavaScript holds it: a type-tagged external around a view and a share of its storage.
// A handle from elsewhere (another external, any object) fails the tag and is an error, never a crash.
#pragma once
#include <napi.h>

#include <memory>

#include "../core/error.h"
#include "../core/storage.h"
#include "../core/tensor.h"

namespace lathe::binding {

struct TensorObject {
  std::shared_ptr<Storage> storage;  // empty after tensorFree
  Tensor view = {};
  int64_t accounted_bytes = 0;  // told to the garbage collector
};

/// New external that owns the object. `owned_bytes` is what the collector should count (0 for views).
Napi::Value make_handle(Napi::Env env, std::shared_ptr<Storage> storage, const Tensor& view, int64_t owned_bytes);

/// The object behind a handle. Throws Error naming the argument for anything else, and for a freed tensor
/// unless `freed_allowed`.
TensorObject& handle_object(Napi::Value value, const char* argument, bool freed_allowed = false);

/// Gives up the storage; nothing happens the second time.
void free_handle(Napi::Env env, TensorObject& object);

}  // namespace lathe::binding
