// Sampling on the CPU: one task per row, plain loops over core/sampling.h.
#include "../core/sampling.h"
#include "ops_parts.h"
#include "parallel.h"
#include "vector_math.h"

namespace lathe::LATHE_ISA {
namespace {

using namespace sampling;

struct Row {
  float* logits;
  int64_t vocabulary;
  const float* floats;
  const int32_t* ints;
  float peak;
  int64_t best;
};

const int32_t* row_of(OptionalIn t, int32_t row) {
  return t && row >= 0 ? i32_data(*t) + row * t->dims[1] : nullptr;
}

void adjust(const Row& r, const int32_t* counts, const int32_t* mask, OptionalIn offsets, OptionalIn tokens,
            OptionalIn values, int64_t index) {
  const float frequency = r.floats[kFrequency], presence = r.floats[kPresence];
  for (int64_t i = 0; mask && i < r.vocabulary; i++) {
    const bool allowed = static_cast<uint32_t>(mask[i / 32]) >> (i % 32) & 1u;
    if (!allowed && r.logits[i] < __builtin_inff()) r.logits[i] = -__builtin_inff();  // NaN and +inf stay and show
  }
  for (int64_t i = 0; counts && i < r.vocabulary; i++) {
    if (counts[i] <= 0) continue;
    const float penalty = exact_add(exact_mul(static_cast<float>(counts[i]), frequency), presence);
    r.logits[i] = exact_add(r.logits[i], -penalty);
  }
  if (!offsets) return;
  for (int32_t j = i32_data(*offsets)[index]; j < i32_data(*offsets)[index + 1]; j++) {
    float& logit = r.logits[i32_data(*tokens)[j]];
    logit = exact_add(logit, f32_data(*values)[j]);
  }
}

/// Peak and its lowest id; false when there is a NaN (then the peak is one) or no finite peak.
bool find_peak(Row& r) {
  r.best = 0;
  for (int64_t i = 0; i < r.vocabulary; i++) {
    if (r.logits[i] > r.logits[r.best]) r.best = i;
    r.peak = r.logits[i];
    if (r.peak != r.peak) return false;
  }
  r.peak = r.logits[r.best];
  return r.peak - r.peak == 0;
}

/// Counters of one level of the search.
void count_level(const Row& r, const Search& s, uint64_t* counters) {
  for (int i = 0; i < kBins; i++) counters[i] = 0;
  for (int64_t i = 0; i < r.vocabulary; i++) {
    const uint32_t key = key_of(r.logits[i]);
    if (key <= s.within.key) continue;
    const float depth = depth_of(r.logits[i], s.peak, s.temperature);
    const int slot = slot_of(s, key, depth);
    if (slot >= 0) counters[slot] += measure_of(s, depth);
  }
  if (s.within.ties == 0) return;
  const float depth = depth_of(value_of_key(s.within.key), s.peak, s.temperature);
  const int slot = slot_of(s, s.within.key, depth);
  if (slot >= 0) counters[slot] += static_cast<uint64_t>(s.within.ties) * measure_of(s, depth);
}

/// The cut that reaches `needed`; `kept` becomes its measure.
Cut find_cut(const Row& r, Search s, uint64_t needed, uint64_t* kept) {
  uint64_t counters[kBins], above = 0;
  while (s.shift >= 0) {
    count_level(r, s, counters);
    int slot = 0;
    while (above + counters[slot] < needed) above += counters[slot++];
    descend(s, slot);
  }
  const uint64_t each = measure_of_key(s, s.prefix), ties = (needed - above + each - 1) / each;
  *kept = above + ties * each;
  return {s.prefix, static_cast<int64_t>(ties)};
}

int64_t draw(const Row& r) {
  const float temperature = r.floats[kTemperature], top_p = r.floats[kTopP];
  Cut cut = whole();
  uint64_t total = 0, counters[kBins];
  const int32_t top_k = r.ints[kTopK];
  if (top_k > 0 && top_k < r.vocabulary) {
    cut = find_cut(r, begin_search(false, r.peak, temperature, cut), static_cast<uint64_t>(top_k), &total);
  }
  const Search search = begin_search(true, r.peak, temperature, cut);
  total = 0;
  count_level(r, search, counters);
  for (int i = 0; i < kBins; i++) total += counters[i];
  if (top_p < 1) cut = find_cut(r, search, needed_mass(top_p, total), &total);
  const uint64_t target = draw_target(uniform53(r.ints), total);
  uint64_t running = 0;
  int64_t ties = 0;
  for (int64_t i = 0; i < r.vocabulary; i++) {
    const uint32_t key = key_of(r.logits[i]);
    if (key < cut.key || (key == cut.key && ties++ >= cut.ties)) continue;
    running += mass_of(depth_of(r.logits[i], r.peak, temperature));
    if (running > target) return i;
  }
  return r.best;  // not reached: target < total
}

/// log Σ e^(logit − peak) from integer masses at temperature 1.
float log_total(const Row& r) {
  uint64_t total = 0;
  for (int64_t i = 0; i < r.vocabulary; i++) total += mass_of(depth_of(r.logits[i], r.peak, 1.0f));
  return log_scalar(static_cast<float>(static_cast<double>(total) / 1099511627776.0));
}

void report(const Row& r, int64_t token, float* logprobs, int32_t* top, int64_t count) {
  const float log_sum = log_total(r);
  logprobs[0] = r.logits[token] - r.peak - log_sum;
  uint64_t last = ~0ull;  // (key, inverted id) of the one before
  for (int64_t j = 0; j < count; j++) {
    uint64_t best = 0;
    for (int64_t i = 0; i < r.vocabulary; i++) {
      const uint64_t rank = static_cast<uint64_t>(key_of(r.logits[i])) << 32 | (0xFFFFFFFFu - static_cast<uint32_t>(i));
      if (rank < last && rank > best) best = rank;
    }
    top[j] = static_cast<int32_t>(0xFFFFFFFFu - static_cast<uint32_t>(best));
    logprobs[1 + j] = r.logits[top[j]] - r.peak - log_sum;
    last = best;
  }
}

void sampleTokens(Out tokens, OptionalOut logprobs, OptionalOut topTokens, Out logits, In floats, In ints,
                  OptionalIn biasOffsets, OptionalIn biasTokens, OptionalIn biasValues, OptionalOut counts,
                  OptionalIn mask, int64_t vocabulary) {
  const int64_t wanted = topTokens ? topTokens->dims[1] : 0;
  parallel_tasks(logits.dims[0], [&](int64_t index, int) {
    Row r = {f32_data(logits) + index * logits.dims[1], vocabulary, f32_data(floats) + index * kFloatColumns,
             i32_data(ints) + index * kIntColumns, 0, 0};
    int32_t* counted = const_cast<int32_t*>(row_of(counts, r.ints[kCountsRow]));
    const int32_t* allowed = row_of(mask, r.ints[kMaskRow]);
    adjust(r, counted, allowed, biasOffsets, biasTokens, biasValues, index);
    float* probabilities = logprobs ? f32_data(*logprobs) + index * (wanted + 1) : nullptr;
    int32_t* top = topTokens ? static_cast<int32_t*>(topTokens->data) + index * wanted : nullptr;
    int64_t token = 0;
    if (find_peak(r)) {
      token = r.floats[kTemperature] > 0 && r.floats[kTopP] > 0 ? draw(r) : r.best;
      if (counted) counted[token]++;
      if (logprobs) report(r, token, probabilities, top, wanted);
    } else {
      token = allowed && r.peak == -__builtin_inff() ? -2 : -1;
      for (int64_t j = 0; logprobs && j <= wanted; j++) probabilities[j] = __builtin_nanf("");
      for (int64_t j = 0; j < wanted; j++) top[j] = -1;
    }
    static_cast<int32_t*>(tokens.data)[index] = static_cast<int32_t>(token);
  });
}

}  // namespace

void add_sample_tokens(Ops& t) { t.sampleTokens = sampleTokens; }

}  // namespace lathe::LATHE_ISA
