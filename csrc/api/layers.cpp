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

void check_bags(const int32_t* ids, const float* weights, const int64_t* offsets, int64_t n_bags, int64_t n_ids,
                int64_t dim) {
  check_rows(n_bags, dim, "dim");
  check_offsets(offsets, n_bags, "cu_seqlens");
  check_ids(ids, offsets[n_bags], n_ids, "ids");
  require(weights, "weights", offsets[n_bags]);
}

struct LinearCall {
  std::vector<LinearMap> maps;
  Dropout dropout{};
  Linear args{};

  explicit LinearCall(const regard_linear* a) {
    require(a, "args");
    check_rows(a->n, a->n_in, "n_in");
    check_rows(a->n, a->n_out, "n_out");
    regard::at_least(a->n_maps, 1, "n_maps");
    require(a->x, "x", a->n);
    require(a->maps, "maps");
    for (int64_t m = 0; m < a->n_maps; ++m) {
      const regard_linear_map& map = a->maps[m];
      require(map.weight, "weight");
      maps.push_back({map.weight, map.bias, nullptr, map.y, map.saved, map.dy});
    }
    args = {a->x,    maps.data(), a->n_maps, a->n_in,          a->n_out, make_activation(a->activation),
            nullptr, a->residual, a->dx,     a->add_to_dx != 0};
    if (a->dropout == nullptr || a->dropout->p == 0.0) return;
    dropout = make_dropout(*a->dropout);
    args.dropout = &dropout;
  }
  LinearCall(const LinearCall&) = delete;
};

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

regard_status regard_linear_forward(const regard_linear* a) {
  return guarded([&] {
    LinearCall call(a);
    const int64_t panels = (a->n_out + kPanel - 1) / kPanel * kPanel * a->n_in;
    const Kernels& use = kernels();
    const CallScratch packed(a->n_maps * panels);
    for (int64_t m = 0; m < a->n_maps; ++m) {
      require(a->maps[m].y, "y", a->n);
      use.pack_panels(a->maps[m].weight, a->n_in, a->n_out, a->n_in, packed.data() + m * panels);
      call.maps[static_cast<size_t>(m)].packed = packed.data() + m * panels;
    }
    Parts(a->n, 64, kRowPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.linear_forward(call.args, begin, end);
    });
  });
}

regard_status regard_linear_backward(const regard_linear* a) {
  return guarded([&] {
    const LinearCall call(a);
    bool wanted = false;
    for (int64_t m = 0; m < a->n_maps; ++m) {
      require(a->maps[m].dy, "dy", a->n);
      if (call.args.activation != kIdentity) require(a->maps[m].saved, "saved", a->n);
      wanted = wanted || a->maps[m].dweight != nullptr || a->maps[m].dbias != nullptr;
    }
    const int64_t weight = a->n_out * a->n_in, width = weight + a->n_out, all = a->n_maps * width;
    const Parts parts(a->n, kSumParts, kRowPart);
    const CallScratch partial(wanted ? parts.count * all : 0);
    const Kernels& use = kernels();
    parts.each([&](int64_t part, int64_t begin, int64_t end) {
      float* sums = wanted ? partial.data() + part * all : nullptr;
      if (wanted) std::fill_n(sums, all, 0.0f);
      use.linear_backward(call.args, begin, end, sums, thread_scratch(linear_scratch(a->n_in, a->n_out, a->n_maps)));
    });
    const auto add_up = [&](float* gradient, int64_t from, int64_t n) {
      for (int64_t part = 0; part < parts.count && gradient != nullptr; ++part)
        for (int64_t c = 0; c < n; ++c) gradient[c] += partial.data()[part * all + from + c];
    };
    for (int64_t m = 0; m < a->n_maps; ++m) {
      add_up(a->maps[m].dweight, m * width, weight);
      add_up(a->maps[m].dbias, m * width + weight, a->n_out);
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

regard_status regard_embedding_bag_forward(const float* table, const int32_t* ids, const float* weights,
                                           const int64_t* offsets, int64_t n_bags, int64_t n_ids, int64_t dim,
                                           float* y) {
  return guarded([&] {
    check_bags(ids, weights, offsets, n_bags, n_ids, dim);
    require(table, "table");
    require(y, "y", n_bags);
    const Kernels& use = kernels();
    Parts(n_bags, 64, kRowPart).each([&](int64_t, int64_t begin, int64_t end) {
      use.embedding_bag_forward(table, ids, weights, offsets, dim, y, begin, end);
    });
  });
}

regard_status regard_embedding_bag_backward(const float* dy, const int32_t* ids, const float* weights,
                                            const int64_t* offsets, int64_t n_bags, int64_t n_ids, int64_t dim,
                                            float* dtable) {
  return guarded([&] {
    check_bags(ids, weights, offsets, n_bags, n_ids, dim);
    require(dtable, "dtable");
    require(dy, "dy", n_bags);
    const Kernels& use = kernels();
    Parts(n_ids, 8, 256).each([&](int64_t, int64_t begin, int64_t end) {
      use.embedding_bag_backward(dy, ids, weights, offsets, n_bags, dim, dtable, begin, end);
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
