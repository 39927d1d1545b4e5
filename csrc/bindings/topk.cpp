#include "bindings/bindings.h"

namespace regard {
namespace {

Shape quantized_shape(int64_t n_items, int64_t dim) {  // one row per block of items
  size_t all = 0, one = 0;
  check(regard_quantized_size(n_items, dim, &all));
  check(regard_quantized_size(1, dim, &one));
  return {static_cast<int64_t>(all / one), static_cast<int64_t>(one)};
}

}  // namespace

void bind_topk(py::module_& m) {
  m.def(
      "topk",
      [](const py::object& h, const py::object& items, int64_t k, const py::object& allow_offsets,
         const py::object& allow, const py::object& deny_offsets, const py::object& deny, const py::object& out_items,
         const py::object& out_scores, const py::object& quantized) {
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
        if (!quantized.is_none()) {
          const Shape table = quantized_shape(c.n_items, c.dim);
          c.quantized = in<uint8_t>(quantized, "quantized", table);
        }
        call([&] { return regard_topk(&c); });
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("k"), py::arg("allow_offsets"), py::arg("allow"),
      py::arg("deny_offsets"), py::arg("deny"), py::arg("items"), py::arg("scores"), py::arg("quantized"));
  m.def(
      "quantized_shape",
      [](int64_t n_items, int64_t dim) {
        const Shape shape = quantized_shape(n_items, dim);
        return py::make_tuple(shape[0], shape[1]);
      },
      py::arg("n_items"), py::arg("dim"));
  m.def(
      "quantize_items",
      [](const py::object& items, const py::object& out_table) {
        const Shape shape = shape_of(items, "item_vectors", 2);
        const float* from = in<float>(items, "item_vectors", shape);
        uint8_t* to = out<uint8_t>(out_table, "quantized", quantized_shape(shape[0], shape[1]));
        call([&] { return regard_quantize_items(from, shape[0], shape[1], to); });
      },
      py::arg("item_vectors"), py::arg("quantized"));
  m.def(
      "rank_counts",
      [](const py::object& h, const py::object& items, const py::object& target_offsets, const py::object& targets,
         const py::object& deny_offsets, const py::object& deny, const py::object& above, const py::object& equal,
         const py::object& gain_offsets, const py::object& gaining, const py::object& gains) {
        const Shape rows = shape_of(h, "h", 2);
        const int64_t n_items = shape_of(items, "item_vectors", 2)[0];
        const Lists gain(gain_offsets, gaining, "gaining", rows[0]);
        const float* by =
            gain.at == nullptr ? nullptr : in<float>(gains, "gains", {shape_of(gaining, "gaining", 1)[0]});
        const Lists wanted(target_offsets, targets, "targets", rows[0]), denied(deny_offsets, deny, "deny", rows[0]);
        const int64_t n_targets = shape_of(targets, "targets", 1)[0];
        const float* left = in<float>(h, "h", rows);
        const float* right = in<float>(items, "item_vectors", {n_items, rows[1]});
        int64_t* higher = out<int64_t>(above, "above", {n_targets});
        int64_t* same = out<int64_t>(equal, "equal", {n_targets});
        call([&] {
          return regard_rank_counts(left, right, rows[0], n_items, rows[1], wanted.at, wanted.values, denied.at,
                                    denied.values, gain.at, gain.values, by, higher, same);
        });
      },
      py::arg("h"), py::arg("item_vectors"), py::arg("target_offsets"), py::arg("targets"), py::arg("deny_offsets"),
      py::arg("deny"), py::arg("above"), py::arg("equal"), py::arg("gain_offsets") = py::none(),
      py::arg("gaining") = py::none(), py::arg("gains") = py::none());
}

}  // namespace regard
