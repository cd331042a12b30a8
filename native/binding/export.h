// Putting functions on the exports object: the lock, the argument count and the way errors cross to JavaScript.
#pragma once
#include <napi.h>

#include <functional>
#include <initializer_list>
#include <mutex>
#include <string>

namespace lathe::binding {

/// One native call at a time in the process: the thread pool and the ISA choice are shared by all worker_threads.
std::mutex& call_mutex();

/// Throws `error` as a JS Error "op: message" with its `code`.
[[noreturn]] void throw_to_js(Napi::Env env, const std::string& op, const std::exception& error);

/// exports[name] = body, called with exactly `count` arguments (from `required` on they may be left out).
void export_function(Napi::Object exports, const std::string& name, size_t required, size_t count,
                     std::function<Napi::Value(const Napi::CallbackInfo&)> body);

/// One function for export_functions().
struct Exported {
  const char* name;
  size_t required, count;
  Napi::Value (*body)(const Napi::CallbackInfo&);
};

/// export_function() for each.
inline void export_functions(Napi::Object exports, std::initializer_list<Exported> functions) {
  for (const Exported& f : functions) export_function(exports, f.name, f.required, f.count, f.body);
}

void export_device(Napi::Env env, Napi::Object exports);
void export_memory(Napi::Env env, Napi::Object exports);
void export_ops(Napi::Env env, Napi::Object exports);
void export_runtime(Napi::Env env, Napi::Object exports);

}  // namespace lathe::binding
