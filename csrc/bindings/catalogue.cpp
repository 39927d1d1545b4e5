#include "bindings/bindings.h"

namespace regard {
namespace {

regard_cross_entropy loss_arguments(const py::object& h, const py::object& items, const py::object& targets,
                                    const py::object& row_weights) {
  regard_cross_entropy c{};
  const Shape rows = shape_of(h, "h", 2);
  c.n = rows[0], c.dim = rows[1];
  c.n_items = shape_of(items, "item_vectors", 2)[0];
  c.h = in<float>(h, "h", rows);
  c.item_vectors = in<float>(items, "item_vectors", {c.n_items, c.dim});
  c.targets = in<int32_t>(targets, "targets", {c.n});
  c.row_weights = in_or_null<float>(row_weights, "row_weights", {c.n});
  c.dloss = 1.0;
  return c;
}

}  // namespace

void bind_catalogue(py::module_& m) {
  m.def(
      "cross_entropy_forward",
      [](const py::object& h, const py::object& items, const py::object& targets, const py::object& row_weights,
         const py::object& lse) {
        auto c = loss_arguments(h, items, targets, row_weights);
        c.lse = out<double>(lse, "lse", {c.n});
        call([&] { return regard_cross_entropy_forward(&c); });
        return c.loss;
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("targets"), py::arg("row_weights"), py::arg("lse"));
  m.def(
      "cross_entropy_backward",
      [](const py::object& h, const py::object& items, const py::object& targets, const py::object& lse,
         const py::object& row_weights, double dloss, const py::object& dh, const py::object& ditems) {
        auto c = loss_arguments(h, items, targets, row_weights);
        c.lse = const_cast<double*>(in<double>(lse, "lse", {c.n}));
        c.dloss = dloss;
        c.dh = out<float>(dh, "dh", {c.n, c.dim});
        c.ditem_vectors = out<float>(ditems, "ditem_vectors", {c.n_items, c.dim});
        call([&] { return regard_cross_entropy_backward(&c); });
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("targets"), py::arg("lse"), py::arg("row_weights"),
      py::arg("dloss"), py::arg("dh"), py::arg("ditem_vectors"));
  m.def(
      "cross_entropy_value_and_grad",
      [](const py::object& h, const py::object& items, const py::object& targets, const py::object& row_weights,
         int precision, const py::object& dh, const py::object& ditems) {
        auto c = loss_arguments(h, items, targets, row_weights);
        c.precision = precision;
        c.dh = out<float>(dh, "dh", {c.n, c.dim});
        c.ditem_vectors = out<float>(ditems, "ditem_vectors", {c.n_items, c.dim});
        call([&] { return regard_cross_entropy_value_and_grad(&c); });
        return c.loss;
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("targets"), py::arg("row_weights"), py::arg("precision"),
      py::arg("dh"), py::arg("ditem_vectors"));
  m.def(
      "sampled_loss_value_and_grad",
      [](const py::object& h, const py::object& items, const py::object& targets, const py::object& negatives,
         bool binary, const py::object& log_expected, double beta, const py::object& dh, const py::object& ditems) {
        regard_sampled_loss c{};
        const Shape rows = shape_of(h, "h", 2);
        c.n = rows[0], c.dim = rows[1];
        c.n_items = shape_of(items, "item_vectors", 2)[0];
        c.n_negatives = shape_of(negatives, "negatives", 1)[0];
        c.h = in<float>(h, "h", rows);
        c.item_vectors = in<float>(items, "item_vectors", {c.n_items, c.dim});
        c.targets = in<int32_t>(targets, "targets", {c.n});
        c.negatives = in<int32_t>(negatives, "negatives", {c.n_negatives});
        c.log_expected = in_or_null<float>(log_expected, "log_expected", {c.n_negatives});
        c.binary = binary, c.beta = beta;
        c.dh = out<float>(dh, "dh", rows);
        c.ditem_vectors = out<float>(ditems, "ditem_vectors", {c.n_items, c.dim});
        call([&] { return regard_sampled_loss_value_and_grad(&c); });
        return c.loss;
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("targets"), py::arg("negatives"), py::arg("binary"),
      py::arg("log_expected"), py::arg("beta"), py::arg("dh"), py::arg("ditem_vectors"));
}

}  // namespace regard
