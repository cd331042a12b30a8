// A tensor as JavaScript holds it: a type-tagged external around a view and a share of its storage.
// A handle from elsewhere (another external, any object) fails the tag and is an error, never a crash.
#pragma once
#include <napi.h>

#include <memory>
#include <vector>

#include "../core/error.h"
#include "../core/storage.h"
#include "../core/tensor.h"

namespace lathe::binding {

struct TensorObject {
  std::shared_ptr<Storage> storage;  // empty after tensorFree
  Tensor view = {};
};

/// Storages that the graph being recorded by this thread refers to; null outside a recording.
std::vector<std::shared_ptr<Storage>>*& recording();

/// New external that owns the object. Its bytes are not reported to the garbage collector: lifetimes are explicit,
/// and V8 would answer every training step's rise and fall with a full collection.
Napi::Value make_handle(Napi::Env env, std::shared_ptr<Storage> storage, const Tensor& view);

/// The object behind a handle. Throws Error naming the argument for anything else, and for a freed tensor
/// unless `freed_allowed`.
TensorObject& handle_object(Napi::Value value, const char* argument, bool freed_allowed = false);

}  // namespace lathe::binding
