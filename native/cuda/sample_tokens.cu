// sampleTokens on CUDA.
#include "parts.h"
#include "runtime.h"
#include "sampling_kernel.h"

namespace lathe::cuda {
namespace {

int* ints_of(OptionalIn t) { return t ? static_cast<int*>(t->data) : nullptr; }
float* floats_of(OptionalIn t) { return t ? f32_data(*t) : nullptr; }

void sampleTokens(Out tokens, OptionalOut logprobs, OptionalOut topTokens, Out logits, In floats, In ints,
                  OptionalIn biasOffsets, OptionalIn biasTokens, OptionalIn biasValues, OptionalOut counts,
                  OptionalIn mask, int64_t vocabulary) {
  SampleArguments a = {};
  a.tokens = ints_of(&tokens), a.logprobs = floats_of(logprobs), a.top_tokens = ints_of(topTokens);
  a.logits = f32_data(logits), a.floats = f32_data(floats), a.ints = ints_of(&ints);
  a.bias_offsets = ints_of(biasOffsets), a.bias_tokens = ints_of(biasTokens), a.bias_values = floats_of(biasValues);
  a.counts = ints_of(counts), a.mask = ints_of(mask);
  a.columns = static_cast<int>(logits.dims[1]), a.vocabulary = static_cast<int>(vocabulary);
  a.wanted = topTokens ? static_cast<int>(topTokens->dims[1]) : 0;
  a.mask_words = mask ? static_cast<int>(mask->dims[1]) : 0;
  launch("sampleTokens", sample_tokens_kernel, dim3(static_cast<unsigned>(logits.dims[0])), dim3(kSampleThreads), 0, a);
}

}  // namespace

void add_sample_tokens(Ops& t) { t.sampleTokens = sampleTokens; }

}  // namespace lathe::cuda
