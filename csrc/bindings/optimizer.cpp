#include "bindings/bindings.h"

namespace regard {
namespace {

struct Weight {  // a vector, or with rows a matrix of which some rows change
  regard_rows rows{};
  Shape shape, grad_shape;
  float* weight;
  const float* grad;

  Weight(const py::object& weight_in, const py::object& grad_in, const py::object& rows_in)
      : shape(shape_of(weight_in, "weight", rows_in.is_none() ? 1 : 2)), grad_shape(shape) {
    rows.n_rows = shape[0], rows.width = 1;
    if (!rows_in.is_none()) {
      rows.n = shape_of(rows_in, "rows", 1)[0], rows.width = shape[1];
      rows.rows = in<int32_t>(rows_in, "rows", {rows.n});
      grad_shape[0] = rows.n;
    }
    weight = out<float>(weight_in, "weight", shape);
    grad = in<float>(grad_in, "grad", grad_shape);
  }
};

}  // namespace

void bind_optimizer(py::module_& m) {
  m.def(
      "sgd",
      [](const py::object& weight, const py::object& grad, const py::object& buffer, double learning_rate,
         double momentum, double weight_decay, double grad_scale, const py::object& rows) {
        const Weight w(weight, grad, rows);
        float* b = out_or_null<float>(buffer, "buffer", w.shape);
        const regard_sgd c{learning_rate, momentum, weight_decay, grad_scale};
        call([&] { return regard_sgd_step(&c, &w.rows, w.weight, w.grad, b); });
      },
      py::arg("weight"), py::arg("grad"), py::arg("buffer"), py::arg("learning_rate"), py::arg("momentum"),
      py::arg("weight_decay"), py::arg("grad_scale"), py::arg("rows"));
  m.def(
      "adagrad",
      [](const py::object& weight, const py::object& grad, const py::object& squares, double learning_rate, double eps,
         double weight_decay, double grad_scale, const py::object& rows) {
        const Weight w(weight, grad, rows);
        float* s = out<float>(squares, "squares", w.shape);
        const regard_adagrad c{learning_rate, eps, weight_decay, grad_scale};
        call([&] { return regard_adagrad_step(&c, &w.rows, w.weight, w.grad, s); });
      },
      py::arg("weight"), py::arg("grad"), py::arg("squares"), py::arg("learning_rate"), py::arg("eps"),
      py::arg("weight_decay"), py::arg("grad_scale"), py::arg("rows"));
  m.def(
      "adam",
      [](const py::object& weight, const py::object& grad, const py::object& first, const py::object& second,
         int64_t step, double learning_rate, double beta1, double beta2, double eps, double weight_decay,
         bool decoupled, double grad_scale, const py::object& rows) {
        const Weight w(weight, grad, rows);
        float* m1 = out<float>(first, "m", w.shape);
        float* m2 = out<float>(second, "v", w.shape);
        const regard_adam c{learning_rate, beta1, beta2, eps, weight_decay, grad_scale, decoupled, step};
        call([&] { return regard_adam_step(&c, &w.rows, w.weight, w.grad, m1, m2); });
      },
      py::arg("weight"), py::arg("grad"), py::arg("m"), py::arg("v"), py::arg("step"), py::arg("learning_rate"),
      py::arg("beta1"), py::arg("beta2"), py::arg("eps"), py::arg("weight_decay"), py::arg("decoupled"),
      py::arg("grad_scale"), py::arg("rows"));
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
