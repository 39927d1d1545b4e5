#include <cmath>

#include "api/check.h"

using namespace regard;

namespace {
constexpr int64_t kElementPart = 1 << 15;
}

extern "C" {

regard_status regard_adam_step(const regard_adam* a, float* weight, const float* grad, float* m, float* v, int64_t n) {
  return guarded([&] {
    require(a, "args");
    regard::at_least(n, 0, "n");
    regard::at_least(a->step, 1, "step");
    require(weight, "weight", n);
    require(grad, "grad", n);
    require(m, "m", n);
    require(v, "v", n);
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
    Parts(n, 64, kElementPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.adam(args, weight, grad, m, v, begin, end);
    });
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
