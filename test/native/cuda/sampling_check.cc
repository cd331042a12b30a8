// The sampling kernel as written, on the CPU, against a plain implementation in float64 and, token by token, against
// its own shared arithmetic; and the loss kernel against float64.
#define LATHE_EMULATION
#include "../../../native/cuda/cross_entropy_kernel.h"
#include "../../../native/cuda/sampling_kernel.h"
#include "reference.h"

using namespace lathe::cuda;
using namespace reference;

namespace {

struct Settings {
  float temperature, top_p;
  int top_k, step;
};

/// The draw in float64 with sorting: only masses are taken from the shared arithmetic, so ends of ranges agree.
int plain_draw(const std::vector<float>& logits, const Settings& s, const int* ints) {
  const int n = static_cast<int>(logits.size());
  std::vector<int> order(n);
  for (int i = 0; i < n; i++) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  if (!(s.temperature > 0 && s.top_p > 0)) return order[0];
  const auto mass = [&](int i) { return mass_of(depth_of(logits[i], logits[order[0]], s.temperature)); };
  size_t kept = s.top_k > 0 && s.top_k < n ? s.top_k : n;
  uint64_t total = 0;
  for (size_t j = 0; j < kept; j++) total += mass(order[j]);
  if (s.top_p < 1) {
    const uint64_t needed = needed_mass(s.top_p, total);
    uint64_t sum = 0;
    size_t j = 0;
    while (sum < needed) sum += mass(order[j++]);
    kept = j;
    total = sum;
  }
  std::vector<int> allowed(order.begin(), order.begin() + kept);
  std::sort(allowed.begin(), allowed.end());
  const uint64_t target = draw_target(uniform53(ints), total);
  uint64_t running = 0;
  for (int i : allowed) {
    if ((running += mass(i)) > target) return i;
  }
  return -2;
}

void check_masses() {
  double worst = 0;
  bool falls = true;
  for (float d = 0, last = 2e12f; d < 28; d += 0.00371f) {
    const double exact = std::exp(-static_cast<double>(d)) * 1099511627776.0;
    const auto mass = static_cast<double>(mass_of(d));
    worst = std::max(worst, (std::fabs(mass - exact) - 1) / exact);  // rounded down to an integer
    falls &= mass <= last;
    last = static_cast<float>(mass);
  }
  expect("masses are e^-depth: " + std::to_string(worst), worst < 5e-7 && falls && mass_of(0) == 1ull << 40);
}

void check_sampling(int vocabulary, double spread, bool ties) {
  constexpr int kRows = 9, kColumnsBeyond = 3, kWanted = 4;
  const Settings all[kRows] = {{0, 1, 0, 0},      {1, 1, 0, 5},   {0.7f, 0.9f, 0, 6}, {1.3f, 1, 5, 7},  {1, 0.5f, 7, 8},
                               {2, 0.999f, 0, 9}, {1, 0, 0, 10},  {1, 1e-9f, 0, 11},  {0.1f, 0.2f, 3, 12}};
  const int columns = vocabulary + kColumnsBeyond, words = div_up(vocabulary, 32);
  std::vector<float> logits(static_cast<size_t>(kRows) * columns), floats;
  std::vector<int> ints, tokens(kRows, -7), top(kRows * kWanted, -7), counts(static_cast<size_t>(kRows) * columns, 0);
  std::vector<int> mask(words, -1), offsets = {0}, bias_tokens;
  std::vector<float> logprobs(kRows * (kWanted + 1), NAN), bias_values;
  for (float& x : logits) x = static_cast<float>(ties ? integer(-3, 3) : spread * normal());
  if (vocabulary > 4) mask[0] = ~(1 << 2 | 1 << 4);
  for (int r = 0; r < kRows; r++) {
    floats.insert(floats.end(), {all[r].temperature, all[r].top_p, 0.25f, 0.5f});
    ints.insert(ints.end(), {all[r].top_k, integer(0, 1 << 30), integer(-5, 5), r, 0, all[r].step, r % 2 ? r : -1,
                             r % 3 == 0 ? 0 : -1});
    for (int j = 0; j < vocabulary / 3; j++) counts[static_cast<size_t>(r) * columns + integer(0, vocabulary - 1)]++;
    const int biased = integer(0, vocabulary - 1);
    bias_tokens.push_back(biased);
    bias_values.push_back(r == 4 ? 3.0f : -1.0f);
    offsets.push_back(static_cast<int>(bias_tokens.size()));
  }
  std::vector<std::vector<float>> adjusted;
  for (int r = 0; r < kRows; r++) {
    std::vector<float> row(logits.begin() + r * columns, logits.begin() + r * columns + vocabulary);
    for (int i = 0; i < vocabulary; i++) {
      if (r % 3 == 0 && !(mask[i / 32] >> (i % 32) & 1)) row[i] = -INFINITY;
      const int count = counts[static_cast<size_t>(r) * columns + i];
      if (r % 2 && count > 0) row[i] -= static_cast<float>(count) * 0.25f + 0.5f;
    }
    row[bias_tokens[r]] += bias_values[r];
    adjusted.push_back(row);
  }
  const std::vector<int> before = counts;
  SampleArguments a = {tokens.data(), logprobs.data(), top.data(), logits.data(), floats.data(), ints.data(),
                       offsets.data(), bias_tokens.data(), bias_values.data(), counts.data(), mask.data(), columns,
                       vocabulary, std::min(kWanted, vocabulary), words};
  emulation::launch({kRows}, kSampleThreads, 0, [&] { sample_tokens_kernel(a); });
  bool same = true, counted = true, best = true;
  Doubles ours, expected;
  for (int r = 0; r < kRows; r++) {
    const int wanted = plain_draw(adjusted[r], all[r], &ints[r * kIntColumns]);
    same &= tokens[r] == wanted;
    if (tokens[r] != wanted) std::printf("row %d: %d, expected %d\n", r, tokens[r], wanted);
    for (int i = 0; i < columns; i++) {
      const size_t at = static_cast<size_t>(r) * columns + i;
      counted &= counts[at] == before[at] + (r % 2 && i == tokens[r]);
    }
    double sum = 0;
    const float peak = *std::max_element(adjusted[r].begin(), adjusted[r].end());
    for (float x : adjusted[r]) sum += std::exp(static_cast<double>(x) - peak);
    std::vector<int> order(vocabulary);
    for (int i = 0; i < vocabulary; i++) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](int i, int j) { return adjusted[r][i] > adjusted[r][j]; });
    for (int j = 0; j <= a.wanted; j++) {
      const int token = j == 0 ? wanted : order[j - 1];
      if (j > 0) best &= top[r * a.wanted + j - 1] == token;
      if (std::isinf(adjusted[r][token])) continue;
      expected.push_back(1 + static_cast<double>(adjusted[r][token]) - peak - std::log(sum));
      ours.push_back(1 + logprobs[r * (a.wanted + 1) + j]);
    }
  }
  const std::string name = " of " + std::to_string(vocabulary) + (ties ? " with ties" : "");
  expect("tokens" + name, same);
  expect("counts" + name, counted);
  expect("best tokens" + name, best);
  expect_close("log-probabilities" + name, ours, expected, 1e-5);
}

void check_not_finite() {
  std::vector<float> logits = {1, NAN, 2, -INFINITY, -INFINITY, -INFINITY, 1, INFINITY, 0, 3, 2, 1, 1, 2, NAN};
  std::vector<float> floats, logprobs(5, 0);
  std::vector<int> ints(40, 0), tokens(5, 5), mask = {0};
  for (int r = 0; r < 5; r++) {
    floats.insert(floats.end(), {r == 2 ? 0.0f : 1.0f, 1, 0, 0});
    ints[r * 8 + kCountsRow] = -1, ints[r * 8 + kMaskRow] = r < 3 ? -1 : 0;
  }
  SampleArguments a = {};
  a.tokens = tokens.data(), a.logprobs = logprobs.data(), a.logits = logits.data(), a.floats = floats.data();
  a.ints = ints.data(), a.mask = mask.data(), a.columns = a.vocabulary = 3, a.mask_words = 1;
  emulation::launch({5}, kSampleThreads, 0, [&] { sample_tokens_kernel(a); });
  expect("rows without a finite peak give -1, those whose mask forbids all -2",
         tokens == std::vector<int>{-1, -1, -1, -2, -1} && std::isnan(logprobs[1]));
}

template <bool kFour, bool kHalf>
void check_loss(int rows, int vocabulary) {
  std::vector<float> logits(static_cast<size_t>(rows) * vocabulary), losses(rows, NAN), scale(rows);
  std::vector<float> slopes(logits.size(), NAN);
  Halves half(logits.size(), 0x7FC0);
  std::vector<int> correct(rows, -1), targets(rows);
  for (float& x : logits) x = static_cast<float>(2 * normal());
  for (int r = 0; r < rows; r++) targets[r] = integer(0, vocabulary - 1), scale[r] = static_cast<float>(r + 1);
  logits[targets[0]] = 30;
  Doubles loss, gradient, right;
  for (int r = 0; r < rows; r++) {
    const float* row = &logits[static_cast<size_t>(r) * vocabulary];
    const float* peak = std::max_element(row, row + vocabulary);
    double sum = 0;
    for (int i = 0; i < vocabulary; i++) sum += std::exp(static_cast<double>(row[i]) - *peak);
    loss.push_back(1 + *peak + std::log(sum) - row[targets[r]]);
    right.push_back(peak - row == targets[r]);
    for (int i = 0; i < vocabulary; i++) {
      gradient.push_back((std::exp(static_cast<double>(row[i]) - *peak) / sum - (i == targets[r])) * scale[r] * 0.125);
    }
  }
  // f32 gradients overwrite the logits.
  void* to = kHalf ? static_cast<void*>(half.data()) : logits.data();
  const LossArguments a = {logits.data(), to, losses.data(), correct.data(), targets.data(), scale.data(), vocabulary,
                           0.125f};
  emulation::launch({static_cast<unsigned>(rows)}, kLossThreads, 0, [&] { cross_entropy_kernel<kFour, kHalf>(a); });
  for (float& x : losses) x += 1;
  const std::string name = " of " + std::to_string(vocabulary) + (kHalf ? ", bf16" : ", f32");
  expect_close("losses" + name, widen(losses), loss, 1e-6);
  expect_close("gradient" + name, kHalf ? widen(half) : widen(logits), gradient, kHalf ? 4e-3 : 1e-5);
  expect_close("correct" + name, Doubles(correct.begin(), correct.end()), right, 0);
}

}  // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  random_state = count > 1 ? std::strtoull(arguments[1], nullptr, 10) : 1;
  check_masses();
  check_not_finite();
  for (bool falling : {false, true}) {
    emulation::falling_order = falling;
    check_sampling(1, 1, false);
    check_sampling(37, 1, false);
    check_sampling(1000, 3, false);
    check_sampling(700, 1, true);
    check_loss<true, true>(2, 4096);
    check_loss<true, false>(2, 512);
    check_loss<false, true>(3, 97);
    check_loss<false, false>(2, 5000 - 1);
  }
  return failures != 0;
}
