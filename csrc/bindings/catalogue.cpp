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

regard_sampled_loss sampled_arguments(const py::object& h, const py::object& items, const py::object& targets,
                                      const py::object& negatives, const py::object& log_expected, const py::object& dh,
                                      const py::object& ditems) {
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
  c.beta = 1.0;
  c.dh = out<float>(dh, "dh", rows);
  c.ditem_vectors = out<float>(ditems, "ditem_vectors", {c.n_items, c.dim});
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
         int precision, const py::object& dh, const py::object& ditems, const py::object& seen_offsets,
         const py::object& seen, const py::object& cu_seqlens) {
        auto c = loss_arguments(h, items, targets, row_weights);
        c.precision = precision;
        if (!seen.is_none()) {
          c.cu_seqlens = offsets(cu_seqlens, "cu_seqlens", kAny, c.n);
          c.batch = shape_of(cu_seqlens, "cu_seqlens", 1)[0] - 1;
          const Lists histories(seen_offsets, seen, "seen", c.batch);
          c.seen_offsets = histories.at, c.seen = histories.values;
        }
        c.dh = out<float>(dh, "dh", {c.n, c.dim});
        c.ditem_vectors = out<float>(ditems, "ditem_vectors", {c.n_items, c.dim});
        call([&] { return regard_cross_entropy_value_and_grad(&c); });
        return c.loss;
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("targets"), py::arg("row_weights"), py::arg("precision"),
      py::arg("dh"), py::arg("ditem_vectors"), py::arg("seen_offsets"), py::arg("seen"), py::arg("cu_seqlens"));
  m.def(
      "sampled_loss_value_and_grad",
      [](const py::object& h, const py::object& items, const py::object& targets, const py::object& negatives,
         bool binary, const py::object& log_expected, double beta, const py::object& dh, const py::object& ditems) {
        auto c = sampled_arguments(h, items, targets, negatives, log_expected, dh, ditems);
        c.binary = binary, c.beta = beta;
        call([&] { return regard_sampled_loss_value_and_grad(&c); });
        return c.loss;
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("targets"), py::arg("negatives"), py::arg("binary"),
      py::arg("log_expected"), py::arg("beta"), py::arg("dh"), py::arg("ditem_vectors"));
  m.def(
      "pointer_loss_value_and_grad",
      [](const py::object& h, const py::object& item_vectors, const py::object& targets, const py::object& items,
         const py::object& by_age, const py::object& cu_seqlens, int precision, const py::object& negatives,
         const py::object& log_expected, const py::object& dh, const py::object& ditems, const py::object& dby_age) {
        regard_pointer p{};
        const int64_t n = shape_of(h, "h", 2)[0];
        p.items = in<int32_t>(items, "items", {n});
        p.cu_seqlens = offsets(cu_seqlens, "cu_seqlens", kAny, n);
        p.batch = shape_of(cu_seqlens, "cu_seqlens", 1)[0] - 1;
        p.n_ages = shape_of(by_age, "by_age", 2)[1];
        p.by_age = in<float>(by_age, "by_age", {n, p.n_ages});
        p.dby_age = out<float>(dby_age, "dby_age", {n, p.n_ages});
        if (!negatives.is_none()) {
          auto c = sampled_arguments(h, item_vectors, targets, negatives, log_expected, dh, ditems);
          call([&] { return regard_pointer_loss_value_and_grad(&p, nullptr, &c); });
          return c.loss;
        }
        auto c = loss_arguments(h, item_vectors, targets, py::none());
        c.precision = precision;
        c.dh = out<float>(dh, "dh", {c.n, c.dim});
        c.ditem_vectors = out<float>(ditems, "ditem_vectors", {c.n_items, c.dim});
        call([&] { return regard_pointer_loss_value_and_grad(&p, &c, nullptr); });
        return c.loss;
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("targets"), py::arg("items"), py::arg("by_age"),
      py::arg("cu_seqlens"), py::arg("precision"), py::arg("negatives"), py::arg("log_expected"), py::arg("dh"),
      py::arg("ditem_vectors"), py::arg("dby_age"));
}

}  // namespace regard
