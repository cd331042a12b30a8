// info, configure, trim: the process-wide settings.
#include "../core/allocator.h"
#include "../core/backend.h"
#include "../core/dispatch.h"
#include "../core/thread_pool.h"
#include "args.h"
#include "export.h"

namespace lathe::binding {
namespace {

constexpr int64_t kMaxThreads = 1024;

Napi::Value info(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const MemoryStats memory = pool_stats();
  Napi::Array isas = Napi::Array::New(env);
  for (const std::string& isa : supported_isas()) isas.Set(isas.Length(), Napi::String::New(env, isa));
  Napi::Object result = Napi::Object::New(env);
  result.Set("isa", Napi::String::New(env, current_isa()));
  result.Set("isas", isas);
  result.Set("threads", Napi::Number::New(env, thread_count()));
  result.Set("bytesInUse", Napi::Number::New(env, static_cast<double>(memory.in_use)));
  result.Set("bytesPeak", Napi::Number::New(env, static_cast<double>(memory.peak)));
  result.Set("bytesPooled", Napi::Number::New(env, static_cast<double>(memory.pooled)));
  return result;
}

Napi::Value configure(const Napi::CallbackInfo& call) {
  if (!call[0].IsObject()) invalid("options", "expected an object");
  const auto options = call[0].As<Napi::Object>();
  const Napi::Array keys = options.GetPropertyNames();
  for (uint32_t i = 0; i < keys.Length(); i++) {
    const std::string key = keys.Get(i).ToString().Utf8Value();
    if (key != "isa" && key != "threads" && key != "memoryLimitBytes") invalid("options", "unknown option '" + key + "'");
  }
  const Napi::Value isa = options.Get("isa"), threads = options.Get("threads");
  const Napi::Value limit = options.Get("memoryLimitBytes");
  // All are read before any is set: a bad one changes nothing.
  const int64_t thread_number = absent(threads) ? thread_count() : safe_integer(threads, "threads");
  if (thread_number < 1 || thread_number > kMaxThreads) invalid("threads", "must be in [1,1024]");
  const int64_t limit_bytes = absent(limit) ? 0 : safe_integer(limit, "memoryLimitBytes");
  if (limit_bytes < 0) invalid("memoryLimitBytes", "must not be negative");
  if (!absent(isa)) select_isa(text(isa, "isa"));
  if (!absent(limit)) pool_set_limit(limit_bytes);
  set_thread_count(static_cast<int>(thread_number));
  return call.Env().Undefined();
}

Napi::Value trim(const Napi::CallbackInfo& call) {
  pool_trim();
  if (cuda_backend()) cuda_backend()->trim();
  return call.Env().Undefined();
}

}  // namespace

void export_runtime(Napi::Env, Napi::Object exports) {
  export_function(exports, "info", 0, 0, info);
  export_function(exports, "configure", 1, 1, configure);
  export_function(exports, "trim", 0, 0, trim);
}

}  // namespace lathe::binding
