#include "bindings/bindings.h"

namespace regard {
namespace {

struct PairArguments {
  regard_pairs c{};
  Shape pairs;  // of z

  PairArguments(const py::object& cu_q, const py::object& cu_k, int64_t total_q, int64_t total_k) {
    c.cu_seqlens_q = offsets(cu_q, "cu_seqlens_q", kAny, total_q);
    c.batch = shape_of(cu_q, "cu_seqlens_q", 1)[0] - 1;
    c.cu_seqlens_k = offsets(cu_k, "cu_seqlens_k", c.batch, total_k);
    int64_t n = 0;
    for (int64_t s = 0; s < c.batch; ++s)
      n += (c.cu_seqlens_q[s + 1] - c.cu_seqlens_q[s]) * (c.cu_seqlens_k[s + 1] - c.cu_seqlens_k[s]);
    pairs = {n};
  }
};

struct AdditiveArguments {
  regard_additive_scores c{};
  Shape q, k, pairs;

  AdditiveArguments(const py::object& q_in, const py::object& k_in, const py::object& v, const py::object& cu_q,
                    const py::object& cu_k) {
    q = shape_of(q_in, "q", 2);
    k = {shape_of(k_in, "k", 2)[0], q[1]};
    const PairArguments p(cu_q, cu_k, q[0], k[0]);
    c.pairs = p.c, pairs = p.pairs, c.dim = q[1];
    c.q = in<float>(q_in, "q", q);
    c.k = in<float>(k_in, "k", k);
    c.v = in<float>(v, "v", {q[1]});
  }
};

struct UnitArguments {
  regard_activation_unit c{};
  Shape q, k, q_part, k_part, product, weight2, layer2, pairs;

  UnitArguments(const py::object& q_in, const py::object& k_in, const py::object& q_part_in,
                const py::object& k_part_in, const py::object& product_in, const py::object& weight2_in,
                const py::object& bias2, const py::object& weight3, const py::object& bias3, int activation,
                const py::object& cu_q, const py::object& cu_k) {
    q = shape_of(q_in, "q", 2);
    k = {shape_of(k_in, "k", 2)[0], q[1]};
    product = {shape_of(product_in, "product", 2)[0], q[1]};
    weight2 = {shape_of(weight2_in, "weight2", 2)[0], product[0]};
    layer2 = {weight2[0]};
    q_part = {q[0], product[0]}, k_part = {k[0], product[0]};
    const PairArguments p(cu_q, cu_k, q[0], k[0]);
    c.pairs = p.c, pairs = p.pairs;
    c.dim = q[1], c.hidden1 = product[0], c.hidden2 = weight2[0], c.activation = activation;
    c.q = in<float>(q_in, "q", q);
    c.k = in<float>(k_in, "k", k);
    c.q_part = in<float>(q_part_in, "q_part", q_part);
    c.k_part = in<float>(k_part_in, "k_part", k_part);
    c.product = in<float>(product_in, "product", product);
    c.weight2 = in<float>(weight2_in, "weight2", weight2);
    c.bias2 = in<float>(bias2, "bias2", layer2);
    c.weight3 = in<float>(weight3, "weight3", layer2);
    c.bias3 = *in<float>(bias3, "bias3", {1});
  }
};

struct SumArguments {
  regard_weighted_sum c{};
  Shape out, v, pairs;

  SumArguments(const py::object& z, const py::object& v_in, const py::object& cu_q, const py::object& cu_k,
               bool softmax, const py::object& out_in, const char* name) {
    v = shape_of(v_in, "v", 2);
    out = {shape_of(out_in, name, 2)[0], v[1]};
    const PairArguments p(cu_q, cu_k, out[0], v[0]);
    c.pairs = p.c, pairs = p.pairs, c.dim = v[1], c.softmax = softmax;
    c.z = in<float>(z, "z", pairs);
    c.v = in<float>(v_in, "v", v);
  }
};

}  // namespace

void bind_pair_scores(py::module_& m) {
  m.def(
      "additive_scores_forward",
      [](const py::object& q, const py::object& k, const py::object& v, const py::object& cu_q, const py::object& cu_k,
         const py::object& z) {
        AdditiveArguments a(q, k, v, cu_q, cu_k);
        a.c.z = out<float>(z, "out", a.pairs);
        call([&] { return regard_additive_scores_forward(&a.c); });
      },
      py::arg("q"), py::arg("k"), py::arg("v"), py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("z"));
  m.def(
      "additive_scores_backward",
      [](const py::object& dz, const py::object& q, const py::object& k, const py::object& v, const py::object& cu_q,
         const py::object& cu_k, const py::object& dq, const py::object& dk, const py::object& dv) {
        AdditiveArguments a(q, k, v, cu_q, cu_k);
        a.c.dz = in<float>(dz, "dz", a.pairs);
        a.c.dq = out<float>(dq, "dq", a.q);
        a.c.dk = out<float>(dk, "dk", a.k);
        a.c.dv = out<float>(dv, "dv", {a.q[1]});
        call([&] { return regard_additive_scores_backward(&a.c); });
      },
      py::arg("dz"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"),
      py::arg("dq"), py::arg("dk"), py::arg("dv"));
  m.def(
      "activation_unit_forward",
      [](const py::object& q, const py::object& k, const py::object& q_part, const py::object& k_part,
         const py::object& product, const py::object& weight2, const py::object& bias2, const py::object& weight3,
         const py::object& bias3, int activation, const py::object& cu_q, const py::object& cu_k, const py::object& z) {
        UnitArguments a(q, k, q_part, k_part, product, weight2, bias2, weight3, bias3, activation, cu_q, cu_k);
        a.c.z = out<float>(z, "out", a.pairs);
        call([&] { return regard_activation_unit_forward(&a.c); });
      },
      py::arg("q"), py::arg("k"), py::arg("q_part"), py::arg("k_part"), py::arg("product"), py::arg("weight2"),
      py::arg("bias2"), py::arg("weight3"), py::arg("bias3"), py::arg("activation"), py::arg("cu_seqlens_q"),
      py::arg("cu_seqlens_k"), py::arg("z"));
  m.def(
      "activation_unit_backward",
      [](const py::object& dz, const py::object& q, const py::object& k, const py::object& q_part,
         const py::object& k_part, const py::object& product, const py::object& weight2, const py::object& bias2,
         const py::object& weight3, const py::object& bias3, int activation, const py::object& cu_q,
         const py::object& cu_k, const py::object& dq, const py::object& dk, const py::object& dq_part,
         const py::object& dk_part, const py::object& dproduct, const py::object& dweight2, const py::object& dbias2,
         const py::object& dweight3) {
        UnitArguments a(q, k, q_part, k_part, product, weight2, bias2, weight3, bias3, activation, cu_q, cu_k);
        a.c.dz = in<float>(dz, "dz", a.pairs);
        a.c.dq = out<float>(dq, "dq", a.q);
        a.c.dk = out<float>(dk, "dk", a.k);
        a.c.dq_part = out<float>(dq_part, "dq_part", a.q_part);
        a.c.dk_part = out<float>(dk_part, "dk_part", a.k_part);
        a.c.dproduct = out<float>(dproduct, "dproduct", a.product);
        a.c.dweight2 = out<float>(dweight2, "dweight2", a.weight2);
        a.c.dbias2 = out<float>(dbias2, "dbias2", a.layer2);
        a.c.dweight3 = out<float>(dweight3, "dweight3", a.layer2);
        call([&] { return regard_activation_unit_backward(&a.c); });
      },
      py::arg("dz"), py::arg("q"), py::arg("k"), py::arg("q_part"), py::arg("k_part"), py::arg("product"),
      py::arg("weight2"), py::arg("bias2"), py::arg("weight3"), py::arg("bias3"), py::arg("activation"),
      py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("dq"), py::arg("dk"), py::arg("dq_part"),
      py::arg("dk_part"), py::arg("dproduct"), py::arg("dweight2"), py::arg("dbias2"), py::arg("dweight3"));
  m.def(
      "weighted_sum_forward",
      [](const py::object& z, const py::object& v, const py::object& cu_q, const py::object& cu_k, bool softmax,
         const py::object& out_array) {
        SumArguments a(z, v, cu_q, cu_k, softmax, out_array, "out");
        a.c.out = out<float>(out_array, "out", a.out);
        call([&] { return regard_weighted_sum_forward(&a.c); });
      },
      py::arg("z"), py::arg("v"), py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("softmax"), py::arg("out"));
  m.def(
      "weighted_sum_backward",
      [](const py::object& dout, const py::object& z, const py::object& v, const py::object& cu_q,
         const py::object& cu_k, bool softmax, const py::object& dz, const py::object& dv) {
        SumArguments a(z, v, cu_q, cu_k, softmax, dout, "dout");
        a.c.dout = in<float>(dout, "dout", a.out);
        a.c.dz = out<float>(dz, "dz", a.pairs);
        a.c.dv = out<float>(dv, "dv", a.v);
        call([&] { return regard_weighted_sum_backward(&a.c); });
      },
      py::arg("dout"), py::arg("z"), py::arg("v"), py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("softmax"),
      py::arg("dz"), py::arg("dv"));
}

}  // namespace regard
