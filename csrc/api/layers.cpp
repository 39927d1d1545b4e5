#include "api/check.h"

using namespace regard;

namespace {

constexpr int64_t kRowPart = 256;  // least rows worth a task of their own
constexpr int64_t kSumParts = 16;  // parts with a weight gradient of their own, added in their order
constexpr int64_t kElementPart = 1 << 14;

void check_rows(int64_t n, int64_t dim, const char* dim_name) {
  regard::at_least(n, 0, "n");
  regard::at_least(dim, 1, dim_name);
}

// The layer norm, and without bias, mean and dbias the RMS norm.
void norm_forward(decltype(Kernels::layer_norm_forward) kernel, const float* x, const float* weight, const float* bias,
                  double eps, int64_t n, int64_t dim, float* y, float* mean, float* rstd) {
  check_rows(n, dim, "dim");
  require(x, "x", n);
  require(weight, "weight");
  require(y, "y", n);
  require(rstd, "rstd", n);
  if (!(eps >= 0.0)) invalid("eps", "at least 0", std::to_string(eps));
  Parts(n, 64, kRowPart).each([&](int64_t, int64_t begin, int64_t end) {
    kernel(x, weight, bias, static_cast<float>(eps), dim, y, mean, rstd, begin, end);
  });
}

void norm_backward(decltype(Kernels::layer_norm_backward) kernel, const float* dy, const float* x, const float* weight,
                   const float* mean, const float* rstd, int64_t n, int64_t dim, float* dx, float* dweight,
                   float* dbias) {
  check_rows(n, dim, "dim");
  require(dy, "dy", n);
  require(x, "x", n);
  require(weight, "weight");
  require(rstd, "rstd", n);
  require(dx, "dx", n);
  require(dweight, "dweight");
  const Parts parts(n, kSumParts, kRowPart);
  std::vector<double> partial(static_cast<size_t>(parts.count * 2 * dim));
  parts.each([&](int64_t part, int64_t begin, int64_t end) {
    double* sums = partial.data() + part * 2 * dim;
    kernel(dy, x, weight, mean, rstd, dim, dx, sums, sums + dim, begin, end);
  });
  for (int64_t c = 0; c < dim; ++c) {
    double weight_sum = 0.0, bias_sum = 0.0;
    for (int64_t part = 0; part < parts.count; ++part) {
      weight_sum += partial[static_cast<size_t>(part * 2 * dim + c)];
      bias_sum += partial[static_cast<size_t>((part * 2 + 1) * dim + c)];
    }
    dweight[c] += static_cast<float>(weight_sum);
    if (dbias != nullptr) dbias[c] += static_cast<float>(bias_sum);
  }
}

}  // namespace

extern "C" {

regard_status regard_linear_forward(const float* x, const float* weight, const float* bias, int64_t n, int64_t n_in,
                                    int64_t n_out, int activation, float* pre, float* y) {
  return guarded([&] {
    check_rows(n, n_in, "n_in");
    check_rows(n, n_out, "n_out");
    require(x, "x", n);
    require(weight, "weight");
    require(y, "y", n);
    const Kernels& use = kernels();
    // Packed once, by the caller, in its own memory: a worker's scratch may be replaced while others read.
    std::vector<float> packed(static_cast<size_t>((n_out + kPanel - 1) / kPanel * kPanel * n_in));
    use.pack_panels(weight, n_in, n_out, n_in, packed.data());
    const Linear args{x, weight, bias, packed.data(), y, pre, n_in, n_out, make_activation(activation)};
    Parts(n, 64, kRowPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.linear_forward(args, begin, end, nullptr);
    });
  });
}

regard_status regard_linear_backward(const float* dy, const float* x, const float* weight, int64_t n, int64_t n_in,
                                     int64_t n_out, float* dx, float* dweight, float* dbias) {
  return guarded([&] {
    check_rows(n, n_in, "n_in");
    check_rows(n, n_out, "n_out");
    require(dy, "dy", n);
    require(x, "x", n);
    require(weight, "weight");
    const Kernels& use = kernels();
    const int64_t scratch = linear_scratch(n_in, n_out), width = n_out * n_in + n_out;
    const Parts parts(n, kSumParts, kRowPart);
    std::vector<float> partial(static_cast<size_t>(dweight != nullptr ? parts.count * width : 0));
    parts.each([&](int64_t part, int64_t begin, int64_t end) {
      float* mine = thread_scratch(scratch);
      if (dx != nullptr) use.linear_backward_input(dy, weight, n_in, n_out, dx, begin, end, mine);
      if (dweight == nullptr) return;
      float* sums = partial.data() + part * width;
      use.linear_backward_weight(dy, x, n_in, n_out, sums, sums + n_out * n_in, begin, end, mine);
    });
    for (int64_t part = 0; part < parts.count && dweight != nullptr; ++part) {
      const float* sums = partial.data() + part * width;
      for (int64_t c = 0; c < n_out * n_in; ++c) dweight[c] += sums[c];
      for (int64_t c = 0; c < n_out && dbias != nullptr; ++c) dbias[c] += sums[n_out * n_in + c];
    }
  });
}

regard_status regard_activation_forward(int activation, const float* x, int64_t n, float* y) {
  return guarded([&] {
    regard::at_least(n, 0, "n");
    require(x, "x", n);
    require(y, "y", n);
    const Activation kind = make_activation(activation);
    const Kernels& use = kernels();
    Parts(n, 64, kElementPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.activation_forward(kind, x, y, begin, end);
    });
  });
}

regard_status regard_activation_backward(int activation, const float* dy, const float* x, int64_t n, float* dx) {
  return guarded([&] {
    regard::at_least(n, 0, "n");
    require(dy, "dy", n);
    require(x, "x", n);
    require(dx, "dx", n);
    const Activation kind = make_activation(activation);
    const Kernels& use = kernels();
    Parts(n, 64, kElementPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.activation_backward(kind, dy, x, dx, begin, end);
    });
  });
}

regard_status regard_gate_forward(int activation, const float* gate, const float* value, int64_t n, float* y) {
  return guarded([&] {
    regard::at_least(n, 0, "n");
    require(gate, "gate", n);
    require(value, "value", n);
    require(y, "y", n);
    const Activation kind = make_activation(activation);
    const Kernels& use = kernels();
    Parts(n, 64, kElementPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.gate_forward(kind, gate, value, y, begin, end);
    });
  });
}

regard_status regard_gate_backward(int activation, const float* dy, const float* gate, const float* value, int64_t n,
                                   float* dgate, float* dvalue) {
  return guarded([&] {
    regard::at_least(n, 0, "n");
    require(dy, "dy", n);
    require(gate, "gate", n);
    require(value, "value", n);
    require(dgate, "dgate", n);
    require(dvalue, "dvalue", n);
    const Activation kind = make_activation(activation);
    const Kernels& use = kernels();
    Parts(n, 64, kElementPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.gate_backward(kind, dy, gate, value, dgate, dvalue, begin, end);
    });
  });
}

regard_status regard_layer_norm_forward(const float* x, const float* weight, const float* bias, double eps, int64_t n,
                                        int64_t dim, float* y, float* mean, float* rstd) {
  return guarded([&] {
    require(bias, "bias");
    require(mean, "mean", n);
    norm_forward(kernels().layer_norm_forward, x, weight, bias, eps, n, dim, y, mean, rstd);
  });
}

regard_status regard_layer_norm_backward(const float* dy, const float* x, const float* weight, const float* mean,
                                         const float* rstd, int64_t n, int64_t dim, float* dx, float* dweight,
                                         float* dbias) {
  return guarded([&] {
    require(mean, "mean", n);
    require(dbias, "dbias");
    norm_backward(kernels().layer_norm_backward, dy, x, weight, mean, rstd, n, dim, dx, dweight, dbias);
  });
}

regard_status regard_rms_norm_forward(const float* x, const float* weight, double eps, int64_t n, int64_t dim, float* y,
                                      float* rstd) {
  return guarded([&] { norm_forward(kernels().rms_norm_forward, x, weight, nullptr, eps, n, dim, y, nullptr, rstd); });
}

regard_status regard_rms_norm_backward(const float* dy, const float* x, const float* weight, const float* rstd,
                                       int64_t n, int64_t dim, float* dx, float* dweight) {
  return guarded(
      [&] { norm_backward(kernels().rms_norm_backward, dy, x, weight, nullptr, rstd, n, dim, dx, dweight, nullptr); });
}

regard_status regard_embedding_forward(const float* table, const int32_t* ids, int64_t n, int64_t n_ids, int64_t dim,
                                       double scale, float* y) {
  return guarded([&] {
    check_rows(n, dim, "dim");
    require(table, "table");
    check_ids(ids, n, n_ids, "ids");
    require(y, "y", n);
    const Kernels& use = kernels();
    Parts(n, 64, kRowPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.embedding_forward(table, ids, dim, static_cast<float>(scale), y, begin, end);
    });
  });
}

regard_status regard_embedding_backward(const float* dy, const int32_t* ids, int64_t n, int64_t n_ids, int64_t dim,
                                        double scale, float* dtable) {
  return guarded([&] {
    check_rows(n, dim, "dim");
    require(dtable, "dtable");
    check_ids(ids, n, n_ids, "ids");
    require(dy, "dy", n);
    const Kernels& use = kernels();
    // Each part owns a range of ids and reads all of dy's ids: no two parts write the same row.
    Parts(n_ids, 8, 256).each([&](int64_t, int64_t begin, int64_t end) {
      use.embedding_backward(dy, ids, n, dim, static_cast<float>(scale), nullptr, dtable, begin, end);
    });
  });
}

regard_status regard_dropout_apply(const regard_dropout* d, const float* x, int64_t n, int64_t width, float* y) {
  return guarded([&] {
    require(d, "dropout");
    check_rows(n, width, "width");
    require(x, "x", n);
    require(y, "y", n);
    const Dropout made = make_dropout(*d);
    const Kernels& use = kernels();
    Parts(n, 64, kRowPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.dropout(made, x, width, y, begin, end);
    });
  });
}

}  // extern "C"
