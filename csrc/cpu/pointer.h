// A second way for the items of a history to be the answer: a last attention over the events whose weights go to the
// events' items. Event k of a sequence adds exp(by_age[t][t - k]), at its own place t = k and at all later ones, to the
// sum of exp of the scores over the catalogue, and to the part that its item has in it. Forward gives the logs of what
// a row's sum and its target gain. Backward, with `all` and `target` the logs of the whole sums:
//
//   dby_age[t][a] = w (exp(by_age[t][a] - all) - [the item of event t - a is the target] exp(by_age[t][a] - target))
//
// Pointer: Vinyals et al. 2015, arXiv:1506.03134; beside a vocabulary: See et al. 2017, arXiv:1704.04368. A task is one
// sequence.
#pragma once
#include "cpu/softmax.h"

namespace regard {
namespace REGARD_ISA_ID {

// Calls at(row, events, by_age of the row, items of the row's event and of those before it, the newest last).
template <class F>
static inline void each_place(const Pointer& a, int64_t task_begin, int64_t task_end, F&& at) {
  for (int64_t task = task_begin; task < task_end; ++task)
    for (int64_t row = a.cu_seqlens[task]; row < a.cu_seqlens[task + 1]; ++row)
      at(row, row - a.cu_seqlens[task] + 1, a.by_age + row * a.n_ages, a.items + row);
}

static void pointer_forward(const Pointer& a, int64_t task_begin, int64_t task_end, float* scratch) {
  each_place(a, task_begin, task_end, [&](int64_t row, int64_t n, const float* by_age, const int32_t* newest) {
    OnlineSoftmax all = {-INFINITY, 0.0};
    memcpy(scratch, by_age, static_cast<size_t>(n) * sizeof(float));
    for (int64_t age = n; age < round_up(n, VW); ++age) scratch[age] = -INFINITY;
    all.take(scratch, n);
    a.all[row] = all.lse();
    double target = -INFINITY;
    for (int64_t age = 0; age < n; ++age)
      if (newest[-age] == a.targets[row]) target = log_of_both(target, static_cast<double>(by_age[age]));
    a.target[row] = target;
  });
}

static void pointer_backward(const Pointer& a, int64_t task_begin, int64_t task_end, float*) {
  const vf weight = splat(a.row_weight);
  each_place(a, task_begin, task_end, [&](int64_t row, int64_t n, const float* by_age, const int32_t* newest) {
    const Probabilities all(a.all[row]);
    float* slope = a.dby_age + row * a.n_ages;
    for (int64_t age = 0; age < n; age += VW) {
      const int64_t some = at_most(VW, n - age);
      store_first(slope + age, all.of(load_first(by_age + age, some)) * weight, some);
    }
    for (int64_t age = 0; age < n; ++age)
      if (newest[-age] == a.targets[row])
        slope[age] -= static_cast<float>(exp(static_cast<double>(by_age[age]) - a.target[row])) * a.row_weight;
    for (int64_t age = n; age < a.n_ages; ++age) slope[age] = 0.0f;
  });
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
