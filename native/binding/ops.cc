// Every op of core/ops.h as a JavaScript function: one generic binder reads the C++ signature.
#include "../core/list_ops.h"

#include <tuple>
#include <utility>

#include "args.h"
#include "export.h"
#include "recorded_call.h"

namespace lathe::binding {
namespace {

Napi::Value to_js(Napi::Env env, double x) { return Napi::Number::New(env, x); }
Napi::Value to_js(Napi::Env env, bool x) { return Napi::Boolean::New(env, x); }

/// The device that the tensors of one call share.
struct SharedDevice {
  const Tensor* first = nullptr;

  void add(const Tensor& t, const std::string& name) {
    if (!first) first = &t;
    if (t.device != first->device) invalid(name.c_str(), "lies on another device than the arguments before it");
  }
  void add(const Tensor* t, const std::string& name) {
    if (t) add(*t, name);
  }
  void add(const TensorList& list, const std::string& name) {
    for (int64_t i = 0; i < list.count; i++) add(list.items[i], name);
  }
  template <class T>
  void add(const T&, const std::string&) {}
};

/// What a function is called, for errors: the addon's own text.
struct Signature {
  const char* name;
  std::vector<std::string> arguments;
  bool may_cross;  // between the CPU and a device
};

template <class R, class... P, size_t... I>
Napi::Value invoke(const Napi::CallbackInfo& info, R (*op)(P...), const Signature& signature,
                   std::index_sequence<I...>) {
  const std::vector<std::string>& names = signature.arguments;
  // Braces: arguments are converted left to right, so the first bad one is reported.
  const std::tuple<Argument<P>...> arguments{Argument<P>(info[I], names[I].c_str())...};
  const bool recorded = cpu_recording();
  if (!signature.may_cross || recorded) {
    SharedDevice device;
    (device.add(std::get<I>(arguments).get(), names[I]), ...);
    if (recorded && device.first && device.first->device != Device::cpu) {
      throw Error(ErrorCode::invalid_argument, "ops on the CPU are being recorded; this one is on another device");
    }
  }
  if constexpr (std::is_void_v<R>) {
    if (recorded) {
      keep_call<P...>(signature.name, op, std::get<I>(arguments).get()...);
    } else {
      op(std::get<I>(arguments).get()...);
    }
    return info.Env().Undefined();
  } else {
    if (recorded) throw Error(ErrorCode::invalid_argument, "its result goes to the host: it cannot be recorded");
    return to_js(info.Env(), op(std::get<I>(arguments).get()...));
  }
}

/// exports[name] = op, which checks its arguments; `names` are the arguments, separated by spaces.
template <class R, class... P>
void bind(Napi::Object exports, const char* name, R (*op)(P...), const char* names) {
  const Signature signature = {name, split_names(names), std::string(name) == "copy"};
  if (signature.arguments.size() != sizeof...(P)) {
    throw Napi::Error::New(exports.Env(), std::string(name) + ": argument names");
  }
  export_function(exports, name, sizeof...(P), sizeof...(P), [op, signature](const Napi::CallbackInfo& info) {
    return invoke(info, op, signature, std::index_sequence_for<P...>{});
  });
}

template <class R, class... P>
void bind(Napi::Object exports, const char* name, R (*Ops::*entry)(P...), const char* names) {
  bind(exports, name, checked_ops().*entry, names);
}

/// packWeight and packWeightInt8 allocate their result, so they are no plain ops.
template <int64_t (*kBytes)(In), void (*Ops::*kOp)(Out, In)>
Napi::Value pack_weight(const Napi::CallbackInfo& info) {
  const Tensor& w = handle_object(info[0], "w").view;
  refuse_while_recording(w, "w");
  if (w.rank != 2 || (w.dtype != DType::f32 && w.dtype != DType::bf16)) invalid("w", "expected f32|bf16 [N,K]");
  const int64_t bytes = kBytes(w);
  auto storage = Storage::allocate(bytes, w.device);
  const Tensor packed = {storage->data(), {bytes}, 1, DType::u8, w.device, true, storage->host()};
  (checked_ops().*kOp)(packed, w);
  return make_handle(info.Env(), std::move(storage), packed);
}

}  // namespace

void export_ops(Napi::Env, Napi::Object e) {
  bind(e, "fill", &Ops::fill, "x value");
  bind(e, "copy", &Ops::copy, "dst src");
  bind(e, "cast", &Ops::cast, "dst src");
  bind(e, "add", &Ops::add, "out a b");
  bind(e, "axpy", &Ops::axpy, "y alpha x");
  bind(e, "scale", &Ops::scale, "y alpha");
  bind(e, "addBias", &Ops::addBias, "y b");
  bind(e, "biasBackward", &Ops::biasBackward, "db dy");
  bind(e, "sumSquares", &Ops::sumSquares, "x");
  bind(e, "hasNonFinite", &Ops::hasNonFinite, "x");
  bind(e, "dropoutForward", &Ops::dropoutForward, "y x p seed stream");
  bind(e, "dropoutBackward", &Ops::dropoutBackward, "dx dy p seed stream");
  bind(e, "randomUniform", &Ops::randomUniform, "x lo hi seed stream");
  bind(e, "randomNormal", &Ops::randomNormal, "x mean std seed stream");
  bind(e, "gemm", &Ops::gemm, "c a b transA transB alpha beta");
  export_function(e, "packWeight", 1, 1, pack_weight<packed_bytes, &Ops::packWeight>);
  export_function(e, "packWeightInt8", 1, 1, pack_weight<packed_int8_bytes, &Ops::packWeightInt8>);
  bind(e, "gemmPacked", &Ops::gemmPacked, "c a packed alpha beta");
  bind(e, "loraLinearForward", &Ops::loraLinearForward,
       "y0 y1 y2 h x dropped w0 w1 w2 bias0 bias1 bias2 a b0 b1 b2 scale0 scale1 scale2");
  bind(e, "loraLinearBackward", &Ops::loraLinearBackward,
       "dx ddropped da db0 db1 db2 dy0 dy1 dy2 x dropped h w0 w1 w2 a b0 b1 b2 scale0 scale1 scale2 beta");
  bind(e, "embeddingForward", &Ops::embeddingForward, "out weight ids");
  bind(e, "embeddingBackward", &Ops::embeddingBackward, "dw dout ids");
  bind(e, "gatherRows", &Ops::gatherRows, "out x rows");
  bind(e, "scatterAddRows", &Ops::scatterAddRows, "dx dout rows");
  bind(e, "rmsNormForward", &Ops::rmsNormForward, "y rstd x w eps");
  bind(e, "rmsNormBackward", &Ops::rmsNormBackward, "dx dw dy x w rstd dres");
  bind(e, "addRmsNormForward", &Ops::addRmsNormForward, "y z rstd x delta w eps");
  bind(e, "qkNormRopeForward", &Ops::qkNormRopeForward, "y rstd x w cos sin positions headDim eps");
  bind(e, "qkNormRopeBackward", &Ops::qkNormRopeBackward, "dx dw dy x w rstd cos sin positions headDim");
  bind(e, "attentionForward", &Ops::attentionForward, "out lse q k v cuSeqlens headDim scale window");
  bind(e, "attentionBackward", &Ops::attentionBackward,
       "dq dk dv dout out lse q k v cuSeqlens headDim scale window");
  bind(e, "kvWrite", &Ops::kvWrite, "kCache vCache k v slots");
  bind(e, "pagedAttentionForward", &Ops::pagedAttentionForward,
       "out q kCache vCache blockTables cuSeqlensQ contextLens blockSize headDim scale window");
  bind(e, "swigluForward", &Ops::swigluForward, "y gate up");
  bind(e, "swigluBackward", &Ops::swigluBackward, "dgate dup dy gate up");
  bind(e, "linearCrossEntropy", &Ops::linearCrossEntropy, "losses correct dx dw x w targets rowScale gradScale");
  bind(e, "adamwStep", &Ops::adamwStep, "p m v g lr beta1 beta2 eps weightDecay step gradScale");
  bind(e, "linearGroup", &Ops::linearGroup, "y0 y1 y2 x w0 w1 w2 bias0 bias1 bias2 pool table slots");
  bind(e, "sampleTokens", &Ops::sampleTokens,
       "tokens logprobs topTokens logits floats ints biasOffsets biasTokens biasValues counts mask vocabulary");
  const ListOps& lists = checked_list_ops();
  bind(e, "sumSquaresInto", lists.sumSquaresInto, "sum xs");
  bind(e, "adamwList", lists.adamwList,
       "state p m v g rounded lr beta1 beta2 eps weightDecay decayed maxNorm");
}

}  // namespace lathe::binding
