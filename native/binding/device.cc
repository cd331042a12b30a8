// Devices as JavaScript sees them: opening CUDA, its facts, deferred reads, recorded graphs.
#include <algorithm>
#include <vector>

#include "../core/backend.h"
#include "../core/recording.h"
#include "args.h"
#include "export.h"

namespace lathe::binding {
namespace {

constexpr napi_type_tag kDeferredTag = {0x6c61746865646566ull, 0x5d0c8f21b7ae4419ull};
constexpr napi_type_tag kGraphTag = {0x6c61746865677261ull, 0x31f8e6c05a7bd26eull};

using Storages = std::vector<std::shared_ptr<Storage>>;

/// Either a device's copy on its way, or (on the CPU) the bytes themselves.
struct Deferred {
  std::unique_ptr<DeferredRead> read;
  std::vector<char> bytes;
  bool taken = false;
};

struct RecordedGraph {
  Storages storages;
  std::unique_ptr<Graph> graph;  // after the storages: it is destroyed first
};

Storages& recorded_storages() {
  static thread_local Storages storages;
  return storages;
}

template <class T>
Napi::Value make_object(Napi::Env env, std::unique_ptr<T> object, const napi_type_tag& tag) {
  const auto external = Napi::External<T>::New(env, object.get(), [](Napi::Env, T* data) { delete data; });
  object.release();
  external.TypeTag(&tag);
  return external;
}

template <class T>
T& object_of(Napi::Value value, const char* argument, const napi_type_tag& tag, const char* what) {
  if (!value.IsExternal() || !value.As<Napi::External<T>>().CheckTypeTag(&tag)) {
    invalid(argument, std::string("expected ") + what);
  }
  return *value.As<Napi::External<T>>().Data();
}

Napi::Value number(Napi::Env env, int64_t x) { return Napi::Number::New(env, static_cast<double>(x)); }

void set_report(Napi::Object result, Backend& backend) {
  const Napi::Env env = result.Env();
  const DeviceReport r = backend.report();
  const MemoryStats memory = backend.memory();
  result.Set("name", Napi::String::New(env, r.name));
  result.Set("computeCapability", Napi::String::New(env, r.compute_capability));
  result.Set("driver", Napi::String::New(env, r.driver));
  result.Set("runtime", Napi::String::New(env, r.runtime));
  result.Set("blas", Napi::String::New(env, r.blas));
  result.Set("multiprocessors", number(env, r.multiprocessors));
  result.Set("memoryTotal", number(env, r.memory_total));
  result.Set("memoryFree", number(env, r.memory_free));
  result.Set("bytesInUse", number(env, memory.in_use));
  result.Set("bytesPeak", number(env, memory.peak));
  result.Set("bytesPooled", number(env, memory.pooled));
}

const char* reason_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::cuda_not_built: return "LATHE_CUDA_NOT_BUILT";
    case ErrorCode::cuda_no_driver: return "LATHE_CUDA_NO_DRIVER";
    case ErrorCode::cuda_driver_too_old: return "LATHE_CUDA_DRIVER_TOO_OLD";
    case ErrorCode::cuda_no_device: return "LATHE_CUDA_NO_DEVICE";
    case ErrorCode::cuda_lost: return "LATHE_CUDA_LOST";
    default: return "LATHE_CUDA_ERROR";
  }
}

/// Opens the device if it can be opened; says why not otherwise. Never throws for a missing device.
Napi::Value cuda_info(const Napi::CallbackInfo& info) {
  Napi::Object result = Napi::Object::New(info.Env());
  try {
    Backend& backend = backend_for(Device::cuda);
    backend.open();
    result.Set("available", Napi::Boolean::New(info.Env(), true));
    set_report(result, backend);
  } catch (const Error& error) {
    result.Set("available", Napi::Boolean::New(info.Env(), false));
    result.Set("code", Napi::String::New(info.Env(), reason_code(error.code())));
    result.Set("reason", Napi::String::New(info.Env(), std::string("no CUDA device: ") + error.what()));
  }
  return result;
}

Napi::Value cuda_configure(const Napi::CallbackInfo& call) {
  if (!call[0].IsObject()) invalid("options", "expected an object");
  const auto options = call[0].As<Napi::Object>();
  const Napi::Array keys = options.GetPropertyNames();
  for (uint32_t i = 0; i < keys.Length(); i++) {
    const std::string key = keys.Get(i).ToString().Utf8Value();
    if (key != "arenaBytes" && key != "memoryLimitBytes" && key != "blas") {
      invalid("options", "unknown option '" + key + "'");
    }
  }
  const Napi::Value arena = options.Get("arenaBytes"), limit = options.Get("memoryLimitBytes");
  const Napi::Value blas = options.Get("blas");
  const int64_t arena_bytes = absent(arena) ? 0 : safe_integer(arena, "arenaBytes");
  const int64_t limit_bytes = absent(limit) ? 0 : safe_integer(limit, "memoryLimitBytes");
  if (arena_bytes < 0) invalid("arenaBytes", "must not be negative");
  if (limit_bytes < 0) invalid("memoryLimitBytes", "must not be negative");
  Backend& backend = backend_for(Device::cuda);
  backend.open();
  if (!absent(blas)) backend.select_blas(text(blas, "blas"));
  if (!absent(limit)) backend.set_limit(limit_bytes);
  if (!absent(arena)) backend.reserve(arena_bytes);
  return call.Env().Undefined();
}

Napi::Value synchronize(const Napi::CallbackInfo& call) {
  backend_for(Device::cuda).synchronize();
  return call.Env().Undefined();
}

Napi::Value read_later(const Napi::CallbackInfo& info) {
  const Tensor& view = handle_object(info[0], "h").view;
  refuse_while_recording(view, "h");
  auto deferred = std::make_unique<Deferred>();
  const int64_t bytes = byte_count(view);
  if (view.device == Device::cpu) {
    const char* from = static_cast<const char*>(view.data);
    deferred->bytes.assign(from, from + bytes);
  } else {
    deferred->read = backend_for(view.device).read_later(view.data, bytes);
  }
  return make_object(info.Env(), std::move(deferred), kDeferredTag);
}

Deferred& deferred_of(Napi::Value v) {
  Deferred& deferred = object_of<Deferred>(v, "deferred", kDeferredTag, "what readLater returned");
  if (deferred.taken) invalid("deferred", "has been taken already");
  return deferred;
}

Napi::Value deferred_ready(const Napi::CallbackInfo& info) {
  const Deferred& deferred = deferred_of(info[0]);
  return Napi::Boolean::New(info.Env(), !deferred.read || deferred.read->ready());
}

Napi::Value deferred_take(const Napi::CallbackInfo& info) {
  Deferred& deferred = deferred_of(info[0]);
  const Bytes target(info[1], "dst");
  const int64_t bytes = deferred.read ? deferred.read->bytes() : static_cast<int64_t>(deferred.bytes.size());
  if (static_cast<int64_t>(target.length) != bytes) {
    invalid("dst", "expected " + std::to_string(bytes) + " bytes, got " + std::to_string(target.length));
  }
  if (deferred.read) {
    deferred.read->take(target.data);
    deferred.read.reset();
  } else if (bytes > 0) {
    std::memcpy(target.data, deferred.bytes.data(), target.length);
    deferred.bytes.clear();
  }
  deferred.taken = true;
  return info.Env().Undefined();
}

Napi::Value capture_begin(const Napi::CallbackInfo& info) {
  const Device device = absent(info[0]) ? Device::cuda : parse_device(info[0], "device");
  if (recording()) throw Error(ErrorCode::invalid_argument, "ops are being recorded already");
  device == Device::cpu ? begin_cpu_recording() : backend_for(device).begin_capture();
  recorded_storages().clear();
  recording() = &recorded_storages();
  return info.Env().Undefined();
}

/// Also after an op failed inside: the recording must end for the device to work on.
Napi::Value capture_end(const Napi::CallbackInfo& info) {
  recording() = nullptr;
  auto recorded = std::make_unique<RecordedGraph>();
  Storages& storages = recorded->storages;
  storages.swap(recorded_storages());
  std::sort(storages.begin(), storages.end());
  storages.erase(std::unique(storages.begin(), storages.end()), storages.end());
  recorded->graph = cpu_recording() ? end_cpu_recording() : backend_for(Device::cuda).end_capture();
  return make_object(info.Env(), std::move(recorded), kGraphTag);
}

RecordedGraph& graph_of(Napi::Value v) {
  return object_of<RecordedGraph>(v, "graph", kGraphTag, "what captureEnd returned");
}

Napi::Value graph_launch(const Napi::CallbackInfo& info) {
  RecordedGraph& recorded = graph_of(info[0]);
  if (!recorded.graph) invalid("graph", "was freed");
  recorded.graph->launch();
  return info.Env().Undefined();
}

Napi::Value graph_free(const Napi::CallbackInfo& info) {
  RecordedGraph& recorded = graph_of(info[0]);
  recorded.graph.reset();
  recorded.storages.clear();
  return info.Env().Undefined();
}

}  // namespace

void export_device(Napi::Env, Napi::Object exports) {
  export_functions(exports, {
    {"cudaInfo", 0, 0, cuda_info},
    {"cudaConfigure", 1, 1, cuda_configure},
    {"synchronize", 0, 0, synchronize},
    {"readLater", 1, 1, read_later},
    {"deferredReady", 1, 1, deferred_ready},
    {"deferredTake", 2, 2, deferred_take},
    {"captureBegin", 0, 1, capture_begin},
    {"captureEnd", 0, 0, capture_end},
    {"graphLaunch", 1, 1, graph_launch},
    {"graphFree", 1, 1, graph_free},
  });
}

}  // namespace lathe::binding
