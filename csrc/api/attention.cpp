#include "api/check.h"

using namespace regard;

namespace {

constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxRanges = 64;      // parts of the tasks, shared among the threads
constexpr int64_t kMaxBiasRanges = 32;  // fewer where each part keeps its own sum of the bias gradient
constexpr int64_t kRangeRows = 256;     // rows worth a part: several short histories together

struct Call {
  Attention args{};
  Dropout dropout{};
  std::vector<int64_t> weights_at;
  int64_t tasks = 0, least_tasks = 1, scratch = 0;

  explicit Call(const regard_attention& a, const regard_attention_training* training = nullptr) {
    regard::at_least(static_cast<int64_t>(a.struct_size), static_cast<int64_t>(sizeof(regard_attention)),
                     "struct_size");
    regard::at_least(a.batch, 0, "batch");
    regard::at_least(a.n_heads, 1, "n_heads");
    if (a.head_dim < 1 || a.head_dim > kMaxHeadDim)
      invalid("head_dim", "1 to " + std::to_string(kMaxHeadDim), std::to_string(a.head_dim));
    check_offsets(a.cu_seqlens_q, a.batch, "cu_seqlens_q");
    check_offsets(a.cu_seqlens_k, a.batch, "cu_seqlens_k");
    const int64_t total_q = a.cu_seqlens_q[a.batch], total_k = a.cu_seqlens_k[a.batch];
    require(a.q, "q", total_q);
    require(a.out, "out", total_q);
    require(a.lse, "lse", total_q);
    require(a.k, "k", total_k);
    require(a.v, "v", total_k);
    if (a.bias != nullptr && (a.bias_len < 1 || (!a.causal && a.bias_len % 2 == 0)))
      invalid("bias", a.causal ? "at least 1 distance" : "an odd number of distances", std::to_string(a.bias_len));

    args.q = a.q, args.k = a.k, args.v = a.v, args.out = a.out, args.lse = a.lse;
    args.cu_q = a.cu_seqlens_q, args.cu_k = a.cu_seqlens_k;
    args.n_heads = a.n_heads, args.head_dim = a.head_dim;
    args.softmax_scale = a.softmax_scale;
    args.causal = a.causal != 0, args.align_start = a.causal_align_start != 0;
    args.bias = a.bias, args.bias_len = a.bias_len, args.bias_zero = a.causal ? 0 : a.bias_len / 2;
    tasks = a.batch * a.n_heads;
    least_tasks = kRangeRows * a.batch / std::max<int64_t>(std::max(total_q, total_k), 1);

    const bool timed = training != nullptr && training->time_bias != nullptr;
    int64_t longest = 0;
    for (int64_t s = 0; s < a.batch && (a.bias != nullptr || timed); ++s)
      longest =
          std::max(longest, a.cu_seqlens_q[s + 1] - a.cu_seqlens_q[s] + a.cu_seqlens_k[s + 1] - a.cu_seqlens_k[s]);
    scratch = attention_scratch(a.head_dim, longest);

    if (training == nullptr) return;
    if (timed) {
      if (training->n_buckets < 1 || training->n_buckets > kTimeBuckets)
        invalid("time_bias", "1 to " + std::to_string(kTimeBuckets) + " buckets", std::to_string(training->n_buckets));
      require(training->times_q, "times_q", total_q);
      require(training->times_k, "times_k", total_k);
      args.time_bias = training->time_bias, args.n_buckets = training->n_buckets;
      args.times_q = training->times_q, args.times_k = training->times_k;
    }
    if (training->dropout != nullptr && training->dropout->p != 0.0) {
      dropout = make_dropout(*training->dropout);
      args.dropout = &dropout;
    }
    if (training->weights != nullptr) {
      int64_t at = 0;
      for (int64_t task = 0; task < tasks; ++task) {
        const int64_t s = task / a.n_heads;
        weights_at.push_back(at);
        at += (a.cu_seqlens_q[s + 1] - a.cu_seqlens_q[s]) * (a.cu_seqlens_k[s + 1] - a.cu_seqlens_k[s]);
      }
      args.weights = training->weights, args.weights_at = weights_at.data();
    }
  }

  void forward() const {
    const Kernels& use = kernels();
    Parts(tasks, kMaxRanges, least_tasks).each([&](int64_t, int64_t begin, int64_t end) {
      use.attention_forward(args, begin, end, thread_scratch(scratch));
    });
  }
};

// sums[c] += partial[0][c] + partial[1][c] + ..., rounded once.
void add_parts(const std::vector<double>& partial, int64_t parts, int64_t width, float* sums) {
  for (int64_t c = 0; c < width; ++c) {
    double sum = 0.0;
    for (int64_t part = 0; part < parts; ++part) sum += partial[static_cast<size_t>(part * width + c)];
    sums[c] += static_cast<float>(sum);
  }
}

}  // namespace

extern "C" {

regard_status regard_attention_forward(const regard_attention* a) {
  return guarded([&] {
    require(a, "args");
    Call(*a).forward();
  });
}

regard_status regard_attention_training_forward(const regard_attention_training* a) {
  return guarded([&] {
    require(a, "args");
    Call(a->base, a).forward();
  });
}

regard_status regard_attention_training_backward(const regard_attention_training* a) {
  return guarded([&] {
    require(a, "args");
    Call call(a->base, a);
    const int64_t total_q = a->base.cu_seqlens_q[a->base.batch], total_k = a->base.cu_seqlens_k[a->base.batch];
    require(a->dout, "dout", total_q);
    require(a->dq, "dq", total_q);
    require(a->dk, "dk", total_k);
    require(a->dv, "dv", total_k);
    if (a->dbias != nullptr) require(a->base.bias, "bias");
    call.args.dout = a->dout, call.args.dq = a->dq, call.args.dk = a->dk, call.args.dv = a->dv;
    call.args.weights = nullptr;

    if (a->dtime_bias != nullptr) require(a->time_bias, "time_bias");

    const int64_t width = a->dbias != nullptr ? a->base.n_heads * a->base.bias_len : 0;
    const int64_t time_width = a->dtime_bias != nullptr ? a->base.n_heads * a->n_buckets : 0;
    const Parts parts(call.tasks, width + time_width > 0 ? kMaxBiasRanges : kMaxRanges, call.least_tasks);
    std::vector<double> dbias(static_cast<size_t>(parts.count * width));
    std::vector<double> dtime_bias(static_cast<size_t>(parts.count * time_width));
    const Kernels& use = kernels();
    parts.each([&](int64_t part, int64_t begin, int64_t end) {
      use.attention_backward(call.args, begin, end, width > 0 ? dbias.data() + part * width : nullptr,
                             time_width > 0 ? dtime_bias.data() + part * time_width : nullptr,
                             thread_scratch(call.scratch));
    });
    add_parts(dbias, parts.count, width, a->dbias);
    add_parts(dtime_bias, parts.count, time_width, a->dtime_bias);
  });
}

}  // extern "C"
