#include <cmath>

#include "api/check.h"

using namespace regard;

namespace {

constexpr int64_t kElementPart = 1 << 15;

void check_weight(const regard_rows* r, const float* weight, const float* grad) {
  require(r, "rows");
  regard::at_least(r->n_rows, 0, "n_rows");
  regard::at_least(r->width, 1, "width");
  if (r->rows != nullptr) {
    check_ids(r->rows, r->n, r->n_rows, "rows");
    for (int64_t i = 1; i < r->n; ++i)
      if (r->rows[i] <= r->rows[i - 1])
        invalid("rows", "strictly rising numbers",
                std::to_string(r->rows[i - 1]) + " before " + std::to_string(r->rows[i]) + " at place " +
                    std::to_string(i));
  }
  require(weight, "weight", r->n_rows);
  require(grad, "grad", r->rows != nullptr ? r->n : r->n_rows);
}

// step(place in weight and state, place in grad, how many floats) over runs that no two threads share.
template <class F>
void each_run(const regard_rows& r, F&& step) {
  if (r.rows == nullptr) {
    Parts(r.n_rows * r.width, 64, kElementPart).each([&](int64_t, int64_t begin, int64_t end) {
      step(begin, begin, end - begin);
    });
    return;
  }
  Parts(r.n, 64, std::max<int64_t>(kElementPart / r.width, 1)).each([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) step(r.rows[i] * r.width, i * r.width, r.width);
  });
}

}  // namespace

extern "C" {

regard_status regard_sgd_step(const regard_sgd* a, const regard_rows* rows, float* weight, const float* grad,
                              float* buffer) {
  return guarded([&] {
    require(a, "args");
    check_weight(rows, weight, grad);
    if (a->momentum != 0.0) require(buffer, "buffer", rows->n_rows);
    const SgdStep args{static_cast<float>(a->learning_rate), static_cast<float>(a->momentum),
                       static_cast<float>(a->weight_decay), static_cast<float>(a->grad_scale)};
    const Kernels& use = kernels();
    each_run(*rows, [&](int64_t at, int64_t from, int64_t n) {
      use.sgd(args, weight + at, grad + from, buffer != nullptr ? buffer + at : nullptr, n);
    });
  });
}

regard_status regard_adagrad_step(const regard_adagrad* a, const regard_rows* rows, float* weight, const float* grad,
                                  float* squares) {
  return guarded([&] {
    require(a, "args");
    check_weight(rows, weight, grad);
    require(squares, "squares", rows->n_rows);
    const AdagradStep args{static_cast<float>(a->learning_rate), static_cast<float>(a->eps),
                           static_cast<float>(a->weight_decay), static_cast<float>(a->grad_scale)};
    const Kernels& use = kernels();
    each_run(*rows, [&](int64_t at, int64_t from, int64_t n) {
      use.adagrad(args, weight + at, grad + from, squares + at, n);
    });
  });
}

regard_status regard_adam_step(const regard_adam* a, const regard_rows* rows, float* weight, const float* grad,
                               float* m, float* v) {
  return guarded([&] {
    require(a, "args");
    regard::at_least(a->step, 1, "step");
    check_weight(rows, weight, grad);
    require(m, "m", rows->n_rows);
    require(v, "v", rows->n_rows);
    if (!(a->beta1 >= 0.0 && a->beta1 < 1.0)) invalid("beta1", "from 0 to below 1", std::to_string(a->beta1));
    if (!(a->beta2 >= 0.0 && a->beta2 < 1.0)) invalid("beta2", "from 0 to below 1", std::to_string(a->beta2));
    const auto step = static_cast<double>(a->step);
    const AdamStep args{static_cast<float>(a->learning_rate),
                        static_cast<float>(a->beta1),
                        static_cast<float>(a->beta2),
                        static_cast<float>(a->eps),
                        static_cast<float>(1.0 - a->beta1),
                        static_cast<float>(1.0 - a->beta2),
                        static_cast<float>(a->weight_decay),
                        a->decoupled != 0,
                        static_cast<float>(1.0 / (1.0 - std::pow(a->beta1, step))),
                        static_cast<float>(1.0 / (1.0 - std::pow(a->beta2, step))),
                        static_cast<float>(a->grad_scale)};
    const Kernels& use = kernels();
    each_run(*rows,
             [&](int64_t at, int64_t from, int64_t n) { use.adam(args, weight + at, grad + from, m + at, v + at, n); });
  });
}

regard_status regard_sum_squares(const float* x, int64_t n, double* sum) {
  return guarded([&] {
    regard::at_least(n, 0, "n");
    require(x, "x", n);
    require(sum, "sum");
    const Kernels& use = kernels();
    const Parts parts(n, 64, kElementPart);
    std::vector<double> partial(static_cast<size_t>(parts.count));
    parts.each([&](int64_t part, int64_t begin, int64_t end) {
      partial[static_cast<size_t>(part)] = use.sum_squares(x, begin, end);
    });
    *sum = 0.0;
    for (const double value : partial) *sum += value;
  });
}

}  // extern "C"
