#include "bindings/bindings.h"

namespace regard {

void bind_optimizer(py::module_& m) {
  m.def(
      "adam",
      [](const py::object& weight, const py::object& grad, const py::object& first, const py::object& second,
         int64_t step, double learning_rate, double beta1, double beta2, double eps, double weight_decay,
         bool decoupled, double grad_scale) {
        const Shape shape = shape_of(weight, "weight", 1);
        float* w = out<float>(weight, "weight", shape);
        const float* g = in<float>(grad, "grad", shape);
        float* m1 = out<float>(first, "m", shape);
        float* m2 = out<float>(second, "v", shape);
        const regard_adam c{learning_rate, beta1, beta2, eps, weight_decay, grad_scale, decoupled, step};
        call([&] { return regard_adam_step(&c, w, g, m1, m2, shape[0]); });
      },
      py::arg("weight"), py::arg("grad"), py::arg("m"), py::arg("v"), py::arg("step"), py::arg("learning_rate"),
      py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"), py::arg("decoupled"),
      py::arg("grad_scale"));
  m.def(
      "sum_squares",
      [](const py::object& x) {
        const Shape shape = shape_of(x, "x", 1);
        const float* a = in<float>(x, "x", shape);
        double sum = 0.0;
        call([&] { return regard_sum_squares(a, shape[0], &sum); });
        return sum;
      },
      py::arg("x"));
}

}  // namespace regard
