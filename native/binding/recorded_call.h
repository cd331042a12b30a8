// One op with its arguments, to be run later: what a recording on the CPU keeps of a call.
#pragma once
#include <string>
#include <tuple>
#include <vector>

#include "../core/recording.h"
#include "../core/tensor.h"

namespace lathe::binding {

/// A copy of one argument. Tensors are views; the graph keeps their storages.
template <class P>
struct Kept {
  P value;
  P get() const { return value; }
};

template <>
struct Kept<const Tensor&> {
  Tensor value;
  explicit Kept(const Tensor& view) : value(view) {}
  const Tensor& get() const { return value; }
};

template <>
struct Kept<const Tensor*> {
  bool given;
  Tensor value = {};
  explicit Kept(const Tensor* view) : given(view != nullptr) {
    if (view) value = *view;
  }
  const Tensor* get() const { return given ? &value : nullptr; }
};

template <>
struct Kept<const TensorList&> {
  std::vector<Tensor> views;
  mutable TensorList value = {};
  explicit Kept(const TensorList& list) : views(list.items, list.items + list.count) {}
  const TensorList& get() const { return value = {views.data(), static_cast<int64_t>(views.size())}; }
};

/// Keeps op(arguments…) for the recording of this thread. The op checks its arguments when it runs.
template <class... P>
void keep_call(const char* name, void (*op)(P...), P... arguments) {
  std::tuple<Kept<P>...> kept{Kept<P>{arguments}...};
  record_call(name, [op, kept = std::move(kept)] {
    std::apply([op](const Kept<P>&... argument) { op(argument.get()...); }, kept);
  });
}

}  // namespace lathe::binding
