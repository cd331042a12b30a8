// Entry of the addon: the exports, and errors as JavaScript sees them. Context-aware: no state per environment.
#include <dlfcn.h>
#include <napi.h>

#include "../core/error.h"
#include "export.h"

namespace lathe::binding {
namespace {

const char* code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "LATHE_INVALID_ARGUMENT";
    case ErrorCode::out_of_memory: return "LATHE_OUT_OF_MEMORY";
    case ErrorCode::io: return "LATHE_IO";
    case ErrorCode::cuda_not_built: return "LATHE_CUDA_NOT_BUILT";
    case ErrorCode::cuda_no_driver: return "LATHE_CUDA_NO_DRIVER";
    case ErrorCode::cuda_driver_too_old: return "LATHE_CUDA_DRIVER_TOO_OLD";
    case ErrorCode::cuda_no_device: return "LATHE_CUDA_NO_DEVICE";
    case ErrorCode::cuda_no_cublas: return "LATHE_CUDA_NO_CUBLAS";
    case ErrorCode::cuda_error: return "LATHE_CUDA_ERROR";
    case ErrorCode::cuda_lost: return "LATHE_CUDA_LOST";
    default: return "LATHE_INTERNAL";
  }
}

/// The thread pool outlives any worker_thread that loaded the addon, so the library must never be unmapped.
void pin_library() {
  static const bool pinned = [] {
    Dl_info info = {};
    if (dladdr(reinterpret_cast<void*>(&pin_library), &info) == 0) return false;
    return dlopen(info.dli_fname, RTLD_LAZY | RTLD_NODELETE) != nullptr;
  }();
  (void)pinned;
}

}  // namespace

std::mutex& call_mutex() {
  static auto* mutex = new std::mutex();
  return *mutex;
}

[[noreturn]] void throw_to_js(Napi::Env env, const std::string& op, const std::exception& error) {
  const auto* known = dynamic_cast<const Error*>(&error);
  Napi::Error js = Napi::Error::New(env, op + ": " + error.what());
  js.Set("code", Napi::String::New(env, code_name(known ? known->code() : ErrorCode::internal)));
  throw js;
}

void export_function(Napi::Object exports, const std::string& name, size_t required, size_t count,
                     std::function<Napi::Value(const Napi::CallbackInfo&)> body) {
  const auto call = [name, required, count, body = std::move(body)](const Napi::CallbackInfo& info) -> Napi::Value {
    try {
      if (info.Length() < required || info.Length() > count) {
        throw Error(ErrorCode::invalid_argument, "expected " + std::to_string(count) + " arguments, got " +
                                                     std::to_string(info.Length()));
      }
      std::lock_guard<std::mutex> lock(call_mutex());
      return body(info);
    } catch (const Napi::Error&) {
      throw;
    } catch (const std::bad_alloc&) {
      throw_to_js(info.Env(), name, Error(ErrorCode::out_of_memory, "cannot allocate"));
    } catch (const std::exception& error) {
      throw_to_js(info.Env(), name, error);
    }
  };
  exports.Set(name, Napi::Function::New(exports.Env(), call, name));
}

}  // namespace lathe::binding

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  lathe::binding::pin_library();
  lathe::binding::export_runtime(env, exports);
  lathe::binding::export_memory(env, exports);
  lathe::binding::export_ops(env, exports);
  lathe::binding::export_device(env, exports);
  return exports;
}

NODE_API_MODULE(lathe, init)
