#include <algorithm>
#include <cmath>

#include "bindings/bindings.h"

namespace regard {
namespace {

struct Arguments {
  regard_attention_training c{};
  std::optional<regard_dropout> dropout;
  Shape q, k, bias, time_bias;

  Arguments(const py::object& q_in, const py::object& k_in, const py::object& v_in, const py::object& cu_q,
            const py::object& cu_k, std::optional<float> scale, bool causal, bool align_start,
            const py::object& bias_in, const py::object& dropout_in, const py::object& time_bias_in,
            const py::object& times_q, const py::object& times_k)
      : dropout(dropout_of(dropout_in)) {
    q = shape_of(q_in, "q", 3);
    k = {shape_of(k_in, "k", 3)[0], q[1], q[2]};
    regard_attention& a = c.base;
    a.struct_size = sizeof a;
    a.q = in<float>(q_in, "q", q);
    a.k = in<float>(k_in, "k", k);
    a.v = in<float>(v_in, "v", k);
    a.cu_seqlens_q = offsets(cu_q, "cu_seqlens_q", kAny, q[0]);
    a.batch = shape_of(cu_q, "cu_seqlens_q", 1)[0] - 1;
    a.cu_seqlens_k = offsets(cu_k, "cu_seqlens_k", a.batch, k[0]);
    a.n_heads = q[1], a.head_dim = q[2];
    a.softmax_scale =
        scale ? *scale : static_cast<float>(1.0 / std::sqrt(static_cast<double>(std::max<int64_t>(q[2], 1))));
    a.causal = causal, a.causal_align_start = align_start;
    if (!bias_in.is_none()) {
      bias = {q[1], shape_of(bias_in, "bias", 2)[1]};
      a.bias = in<float>(bias_in, "bias", bias);
      a.bias_len = bias[1];
    }
    if (dropout) c.dropout = &*dropout;
    if (!time_bias_in.is_none()) {
      time_bias = {q[1], shape_of(time_bias_in, "time_bias", 2)[1]};
      c.time_bias = in<float>(time_bias_in, "time_bias", time_bias);
      c.n_buckets = time_bias[1];
      c.times_q = in<int64_t>(times_q, "times_q", {q[0]});
      c.times_k = in<int64_t>(times_k, "times_k", {k[0]});
    } else if (!times_q.is_none() || !times_k.is_none()) {
      throw py::value_error("time_bias: expected an array beside times_q and times_k, got None");
    }
  }
};

}  // namespace

void bind_attention(py::module_& m) {
  m.def(
      "attention_forward",
      [](const py::object& q, const py::object& k, const py::object& v, const py::object& cu_q, const py::object& cu_k,
         std::optional<float> scale, bool causal, bool align_start, const py::object& bias, const py::object& dropout,
         const py::object& time_bias, const py::object& times_q, const py::object& times_k, const py::object& weights,
         py::object out_array, py::object lse) {
        Arguments a(q, k, v, cu_q, cu_k, scale, causal, align_start, bias, dropout, time_bias, times_q, times_k);
        a.c.base.out = out_or_new<float>(out_array, "out", a.q);
        a.c.base.lse = out_or_new<double>(lse, "lse", {a.q[0], a.q[1]});
        a.c.weights = out_or_null<float>(weights, "weights", {kAny});
        if (a.c.weights != nullptr) {
          int64_t needed = 0;
          for (int64_t s = 0; s < a.c.base.batch; ++s)
            needed += (a.c.base.cu_seqlens_q[s + 1] - a.c.base.cu_seqlens_q[s]) *
                      (a.c.base.cu_seqlens_k[s + 1] - a.c.base.cu_seqlens_k[s]) * a.q[1];
          out<float>(weights, "weights", {needed});
        }
        call([&] { return regard_attention_training_forward(&a.c); });
        return std::make_pair(std::move(out_array), std::move(lse));
      },
      py::arg("q"), py::arg("k"), py::arg("v"), py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"),
      py::arg("softmax_scale"), py::arg("causal"), py::arg("align_start"), py::arg("bias"), py::arg("dropout"),
      py::arg("time_bias"), py::arg("times_q"), py::arg("times_k"), py::arg("weights"), py::arg("out"), py::arg("lse"));
  m.def(
      "attention_backward",
      [](const py::object& dout, const py::object& q, const py::object& k, const py::object& v,
         const py::object& out_array, const py::object& lse, const py::object& cu_q, const py::object& cu_k,
         std::optional<float> scale, bool causal, bool align_start, const py::object& bias, const py::object& dropout,
         const py::object& time_bias, const py::object& times_q, const py::object& times_k, py::object dq,
         py::object dk, py::object dv, const py::object& dbias, const py::object& dtime_bias) {
        Arguments a(q, k, v, cu_q, cu_k, scale, causal, align_start, bias, dropout, time_bias, times_q, times_k);
        a.c.base.out = const_cast<float*>(in<float>(out_array, "out", a.q));
        a.c.base.lse = const_cast<double*>(in<double>(lse, "lse", {a.q[0], a.q[1]}));
        a.c.dout = in<float>(dout, "dout", a.q);
        a.c.dq = out_or_new<float>(dq, "dq", a.q);
        a.c.dk = out_or_new<float>(dk, "dk", a.k);
        a.c.dv = out_or_new<float>(dv, "dv", a.k);
        a.c.dbias = out_or_null<float>(dbias, "dbias", a.bias);
        a.c.dtime_bias = out_or_null<float>(dtime_bias, "dtime_bias", a.time_bias);
        call([&] { return regard_attention_training_backward(&a.c); });
        return std::make_tuple(std::move(dq), std::move(dk), std::move(dv));
      },
      py::arg("dout"), py::arg("q"), py::arg("k"), py::arg("v"), py::arg("out"), py::arg("lse"),
      py::arg("cu_seqlens_q"), py::arg("cu_seqlens_k"), py::arg("softmax_scale"), py::arg("causal"),
      py::arg("align_start"), py::arg("bias"), py::arg("dropout"), py::arg("time_bias"), py::arg("times_q"),
      py::arg("times_k"), py::arg("dq"), py::arg("dk"), py::arg("dv"), py::arg("dbias"), py::arg("dtime_bias"));
}

}  // namespace regard
