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

struct Lists {  // a ragged argument, or none
  const int64_t* at = nullptr;
  const int32_t* values = nullptr;
  Lists(const py::object& offsets_in, const py::object& values_in, const char* name, int64_t rows) {
    if (offsets_in.is_none()) return;
    values = in<int32_t>(values_in, name, {kAny});
    at = offsets(offsets_in, (std::string(name) + " offsets").c_str(), rows, shape_of(values_in, name, 1)[0]);
  }
};

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
  m.def(
      "topk",
      [](const py::object& h, const py::object& items, int64_t k, const py::object& allow_offsets,
         const py::object& allow, const py::object& deny_offsets, const py::object& deny, const py::object& out_items,
         const py::object& out_scores) {
        const Shape rows = shape_of(h, "h", 2);
        const int64_t n_items = shape_of(items, "item_vectors", 2)[0];
        const Lists allowed(allow_offsets, allow, "allow", rows[0]), denied(deny_offsets, deny, "deny", rows[0]);
        regard_topk_args c{};
        c.struct_size = sizeof c;
        c.h = in<float>(h, "h", rows);
        c.item_vectors = in<float>(items, "item_vectors", {n_items, rows[1]});
        c.n = rows[0], c.n_items = n_items, c.dim = rows[1], c.k = k;
        c.allow_offsets = allowed.at, c.allow = allowed.values;
        c.deny_offsets = denied.at, c.deny = denied.values;
        c.items = out<int32_t>(out_items, "items", {c.n, k});
        c.scores = out<float>(out_scores, "scores", {c.n, k});
        call([&] { return regard_topk(&c); });
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("k"), py::arg("allow_offsets"), py::arg("allow"),
      py::arg("deny_offsets"), py::arg("deny"), py::arg("items"), py::arg("scores"));
  m.def(
      "rank_counts",
      [](const py::object& h, const py::object& items, const py::object& target_offsets, const py::object& targets,
         const py::object& deny_offsets, const py::object& deny, const py::object& above, const py::object& equal) {
        const Shape rows = shape_of(h, "h", 2);
        const int64_t n_items = shape_of(items, "item_vectors", 2)[0];
        const Lists wanted(target_offsets, targets, "targets", rows[0]), denied(deny_offsets, deny, "deny", rows[0]);
        const int64_t n_targets = shape_of(targets, "targets", 1)[0];
        const float* left = in<float>(h, "h", rows);
        const float* right = in<float>(items, "item_vectors", {n_items, rows[1]});
        int64_t* higher = out<int64_t>(above, "above", {n_targets});
        int64_t* same = out<int64_t>(equal, "equal", {n_targets});
        call([&] {
          return regard_rank_counts(left, right, rows[0], n_items, rows[1], wanted.at, wanted.values, denied.at,
                                    denied.values, higher, same);
        });
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("target_offsets"), py::arg("targets"), py::arg("deny_offsets"),
      py::arg("deny"), py::arg("above"), py::arg("equal"));
}

}  // namespace regard
