#include "bindings/bindings.h"

namespace regard {
namespace {

using Objects = std::vector<py::object>;

// One entry per weight.
const Objects& each(const Objects& given, const char* name, const Objects& weight) {
  if (given.size() != weight.size())
    throw py::value_error(std::string(name) + ": expected one for each of " + std::to_string(weight.size()) +
                          " weights, got " + std::to_string(given.size()));
  return given;
}

struct LinearArguments {  // of one map or several, whose weights are of one shape
  regard_linear c{};
  std::vector<regard_linear_map> maps;
  std::optional<regard_dropout> dropout;
  Shape rows;

  LinearArguments(const py::object& x, const Objects& weight, int activation, const py::object& dropout_in)
      : maps(weight.size()), dropout(dropout_of(dropout_in)) {
    if (weight.empty()) throw py::value_error("weight: expected at least one, got none");
    const Shape in_rows = shape_of(x, "x", 2), w = shape_of(weight[0], "weight", 2);
    c.n = in_rows[0], c.n_in = in_rows[1], c.n_out = w[0];
    c.n_maps = static_cast<int64_t>(weight.size()), c.maps = maps.data();
    c.x = in<float>(x, "x", in_rows);
    for (size_t m = 0; m < weight.size(); ++m) maps[m].weight = in<float>(weight[m], "weight", {c.n_out, c.n_in});
    c.activation = activation;
    if (dropout) c.dropout = &*dropout;
    rows = {c.n, c.n_out};
  }
};

}  // namespace

void bind_layers(py::module_& m) {
  m.def(
      "linear_forward",
      [](const py::object& x, const Objects& weight, const Objects& bias, int activation, const py::object& dropout,
         const py::object& residual, const Objects& saved, const Objects& y) {
        LinearArguments a(x, weight, activation, dropout);
        a.c.residual = in_or_null<float>(residual, "residual", a.rows);
        for (size_t i = 0; i < weight.size(); ++i) {
          a.maps[i].bias = in_or_null<float>(each(bias, "bias", weight)[i], "bias", {a.c.n_out});
          a.maps[i].saved = out_or_null<float>(each(saved, "saved", weight)[i], "saved", a.rows);
          a.maps[i].y = out<float>(each(y, "out", weight)[i], "out", a.rows);
        }
        call([&] { return regard_linear_forward(&a.c); });
      },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("activation"), py::arg("dropout"), py::arg("residual"),
      py::arg("saved"), py::arg("y"));
  m.def(
      "linear_backward",
      [](const Objects& dy, const py::object& x, const Objects& weight, int activation, const py::object& dropout,
         const Objects& saved, const py::object& dx, bool add_to_dx, const Objects& dweight, const Objects& dbias) {
        LinearArguments a(x, weight, activation, dropout);
        for (size_t i = 0; i < weight.size(); ++i) {
          a.maps[i].dy = in<float>(each(dy, "dy", weight)[i], "dy", a.rows);
          a.maps[i].saved = const_cast<float*>(in_or_null<float>(each(saved, "saved", weight)[i], "saved", a.rows));
          a.maps[i].dweight = out_or_null<float>(each(dweight, "dweight", weight)[i], "dweight", {a.c.n_out, a.c.n_in});
          a.maps[i].dbias = out_or_null<float>(each(dbias, "dbias", weight)[i], "dbias", {a.c.n_out});
        }
        a.c.dx = out_or_null<float>(dx, "dx", {a.c.n, a.c.n_in});
        a.c.add_to_dx = add_to_dx;
        call([&] { return regard_linear_backward(&a.c); });
      },
      py::arg("dy"), py::arg("x"), py::arg("weight"), py::arg("activation"), py::arg("dropout"), py::arg("saved"),
      py::arg("dx"), py::arg("add_to_dx"), py::arg("dweight"), py::arg("dbias"));
  m.def(
      "activation_forward",
      [](int activation, const py::object& x, const py::object& y) {
        const Shape shape = shape_of(x, "x", 1);
        const float* a = in<float>(x, "x", shape);
        float* b = out<float>(y, "out", shape);
        call([&] { return regard_activation_forward(activation, a, shape[0], b); });
      },
      py::arg("activation"), py::arg("x"), py::arg("y"));
  m.def(
      "activation_backward",
      [](int activation, const py::object& dy, const py::object& x, const py::object& dx) {
        const Shape shape = shape_of(x, "x", 1);
        const float* d = in<float>(dy, "dy", shape);
        const float* a = in<float>(x, "x", shape);
        float* b = out<float>(dx, "dx", shape);
        call([&] { return regard_activation_backward(activation, d, a, shape[0], b); });
      },
      py::arg("activation"), py::arg("dy"), py::arg("x"), py::arg("dx"));
  m.def(
      "gate_forward",
      [](int activation, const py::object& gate, const py::object& value, const py::object& y) {
        const Shape shape = shape_of(gate, "gate", 2);
        const float* a = in<float>(gate, "gate", shape);
        const float* b = in<float>(value, "value", shape);
        float* c = out<float>(y, "out", shape);
        call([&] { return regard_gate_forward(activation, a, b, shape[0] * shape[1], c); });
      },
      py::arg("activation"), py::arg("gate"), py::arg("value"), py::arg("y"));
  m.def(
      "gate_backward",
      [](int activation, const py::object& dy, const py::object& gate, const py::object& value, const py::object& dgate,
         const py::object& dvalue) {
        const Shape shape = shape_of(gate, "gate", 2);
        const float* d = in<float>(dy, "dy", shape);
        const float* a = in<float>(gate, "gate", shape);
        const float* b = in<float>(value, "value", shape);
        float* da = out<float>(dgate, "dgate", shape);
        float* db = out<float>(dvalue, "dvalue", shape);
        call([&] { return regard_gate_backward(activation, d, a, b, shape[0] * shape[1], da, db); });
      },
      py::arg("activation"), py::arg("dy"), py::arg("gate"), py::arg("value"), py::arg("dgate"), py::arg("dvalue"));
  m.def(
      "layer_norm_forward",
      [](const py::object& x, const py::object& weight, const py::object& bias, double eps, const py::object& y,
         const py::object& mean, const py::object& rstd) {
        const Shape shape = shape_of(x, "x", 2);
        const float* a = in<float>(x, "x", shape);
        const float* w = in<float>(weight, "weight", {shape[1]});
        const float* b = in<float>(bias, "bias", {shape[1]});
        float* result = out<float>(y, "out", shape);
        float* middle = out<float>(mean, "mean", {shape[0]});
        float* scale = out<float>(rstd, "rstd", {shape[0]});
        call([&] { return regard_layer_norm_forward(a, w, b, eps, shape[0], shape[1], result, middle, scale); });
      },
      py::arg("x"), py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("y"), py::arg("mean"), py::arg("rstd"));
  m.def(
      "layer_norm_backward",
      [](const py::object& dy, const py::object& x, const py::object& weight, const py::object& mean,
         const py::object& rstd, const py::object& dx, const py::object& dweight, const py::object& dbias) {
        const Shape shape = shape_of(x, "x", 2);
        const float* d = in<float>(dy, "dy", shape);
        const float* a = in<float>(x, "x", shape);
        const float* w = in<float>(weight, "weight", {shape[1]});
        const float* middle = in<float>(mean, "mean", {shape[0]});
        const float* scale = in<float>(rstd, "rstd", {shape[0]});
        float* da = out<float>(dx, "dx", shape);
        float* dw = out<float>(dweight, "dweight", {shape[1]});
        float* db = out<float>(dbias, "dbias", {shape[1]});
        call([&] { return regard_layer_norm_backward(d, a, w, middle, scale, shape[0], shape[1], da, dw, db); });
      },
      py::arg("dy"), py::arg("x"), py::arg("weight"), py::arg("mean"), py::arg("rstd"), py::arg("dx"),
      py::arg("dweight"), py::arg("dbias"));
  m.def(
      "rms_norm_forward",
      [](const py::object& x, const py::object& weight, double eps, const py::object& y, const py::object& rstd) {
        const Shape shape = shape_of(x, "x", 2);
        const float* a = in<float>(x, "x", shape);
        const float* w = in<float>(weight, "weight", {shape[1]});
        float* result = out<float>(y, "out", shape);
        float* scale = out<float>(rstd, "rstd", {shape[0]});
        call([&] { return regard_rms_norm_forward(a, w, eps, shape[0], shape[1], result, scale); });
      },
      py::arg("x"), py::arg("weight"), py::arg("eps"), py::arg("y"), py::arg("rstd"));
  m.def(
      "rms_norm_backward",
      [](const py::object& dy, const py::object& x, const py::object& weight, const py::object& rstd,
         const py::object& dx, const py::object& dweight) {
        const Shape shape = shape_of(x, "x", 2);
        const float* d = in<float>(dy, "dy", shape);
        const float* a = in<float>(x, "x", shape);
        const float* w = in<float>(weight, "weight", {shape[1]});
        const float* scale = in<float>(rstd, "rstd", {shape[0]});
        float* da = out<float>(dx, "dx", shape);
        float* dw = out<float>(dweight, "dweight", {shape[1]});
        call([&] { return regard_rms_norm_backward(d, a, w, scale, shape[0], shape[1], da, dw); });
      },
      py::arg("dy"), py::arg("x"), py::arg("weight"), py::arg("rstd"), py::arg("dx"), py::arg("dweight"));
  m.def(
      "embedding_forward",
      [](const py::object& table, const py::object& ids, double scale, const py::object& y) {
        const Shape shape = shape_of(table, "table", 2);
        const int64_t n = shape_of(ids, "ids", 1)[0];
        const float* t = in<float>(table, "table", shape);
        const int32_t* rows = in<int32_t>(ids, "ids", {n});
        float* result = out<float>(y, "out", {n, shape[1]});
        call([&] { return regard_embedding_forward(t, rows, n, shape[0], shape[1], scale, result); });
      },
      py::arg("table"), py::arg("ids"), py::arg("scale"), py::arg("y"));
  m.def(
      "embedding_backward",
      [](const py::object& dy, const py::object& ids, double scale, const py::object& dtable) {
        const Shape shape = shape_of(dtable, "dtable", 2);
        const int64_t n = shape_of(ids, "ids", 1)[0];
        float* t = out<float>(dtable, "dtable", shape);
        const int32_t* rows = in<int32_t>(ids, "ids", {n});
        const float* d = in<float>(dy, "dy", {n, shape[1]});
        call([&] { return regard_embedding_backward(d, rows, n, shape[0], shape[1], scale, t); });
      },
      py::arg("dy"), py::arg("ids"), py::arg("scale"), py::arg("dtable"));
  m.def(
      "embedding_bag_forward",
      [](const py::object& table, const py::object& ids, const py::object& weights, const py::object& cu_seqlens,
         const py::object& y) {
        const Shape shape = shape_of(table, "table", 2);
        const int64_t n = shape_of(cu_seqlens, "cu_seqlens", 1)[0] - 1, total = shape_of(ids, "ids", 1)[0];
        const float* t = in<float>(table, "table", shape);
        const int64_t* bags = offsets(cu_seqlens, "cu_seqlens", kAny, total);
        const int32_t* rows = in<int32_t>(ids, "ids", {total});
        const float* w = in<float>(weights, "weights", {total});
        float* result = out<float>(y, "out", {n, shape[1]});
        call([&] { return regard_embedding_bag_forward(t, rows, w, bags, n, shape[0], shape[1], result); });
      },
      py::arg("table"), py::arg("ids"), py::arg("weights"), py::arg("cu_seqlens"), py::arg("y"));
  m.def(
      "embedding_bag_backward",
      [](const py::object& dy, const py::object& ids, const py::object& weights, const py::object& cu_seqlens,
         const py::object& dtable) {
        const Shape shape = shape_of(dtable, "dtable", 2);
        const int64_t n = shape_of(cu_seqlens, "cu_seqlens", 1)[0] - 1, total = shape_of(ids, "ids", 1)[0];
        float* t = out<float>(dtable, "dtable", shape);
        const int64_t* bags = offsets(cu_seqlens, "cu_seqlens", kAny, total);
        const int32_t* rows = in<int32_t>(ids, "ids", {total});
        const float* w = in<float>(weights, "weights", {total});
        const float* d = in<float>(dy, "dy", {n, shape[1]});
        call([&] { return regard_embedding_bag_backward(d, rows, w, bags, n, shape[0], shape[1], t); });
      },
      py::arg("dy"), py::arg("ids"), py::arg("weights"), py::arg("cu_seqlens"), py::arg("dtable"));
  m.def(
      "dropout",
      [](const py::object& x, const py::object& dropout, const py::object& y) {
        const Shape shape = shape_of(x, "x", 2);
        const float* a = in<float>(x, "x", shape);
        float* b = out<float>(y, "out", shape);
        const auto d = dropout_of(dropout);
        if (!d) throw py::type_error("dropout: expected (p, seed, step, site), got None");
        call([&] { return regard_dropout_apply(&*d, a, shape[0], shape[1], b); });
      },
      py::arg("x"), py::arg("dropout"), py::arg("y"));
}

}  // namespace regard
