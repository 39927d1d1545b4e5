// Compiled once per instruction set: everything below lies in the namespace regard::REGARD_ISA_ID, and only the table
// leaves it.
#include "cpu/kernels.h"

#include "cpu/activation.h"
#include "cpu/attention.h"
#include "cpu/attention_newest.h"
#include "cpu/cross_entropy.h"
#include "cpu/cross_entropy_pass.h"
#include "cpu/dropout.h"
#include "cpu/embedding.h"
#include "cpu/linear.h"
#include "cpu/norm.h"
#include "cpu/optimizer.h"
#include "cpu/pair_scores.h"
#include "cpu/pointer.h"
#include "cpu/quantized.h"
#include "cpu/sampled.h"
#include "cpu/topk.h"
#include "cpu/topk_quantized.h"

namespace regard {
namespace REGARD_ISA_ID {

extern const Kernels table;
const Kernels table = {
    REGARD_ISA_NAME,
    pack_panels,
    attention_forward,
    attention_backward,
    attention_newest,
    cross_entropy_forward,
    cross_entropy_backward,
    {cross_entropy_pass<Float32Form>(), cross_entropy_pass<Float32Form>(), cross_entropy_pass<Float32Form>()},
    sampled_loss,
    pointer_forward,
    pointer_backward,
    topk,
    topk_quantized,
    quantize_items,
    rank_counts,
    linear_forward,
    linear_backward,
    norm_forward<true>,
    norm_backward<true>,
    norm_forward<false>,
    norm_backward<false>,
    activation_forward,
    activation_backward,
    gate_forward,
    gate_backward,
    embedding_forward,
    embedding_backward,
    embedding_bag_forward,
    embedding_bag_backward,
    dropout,
    additive_scores_forward,
    additive_scores_backward,
    activation_unit_forward,
    activation_unit_backward,
    weighted_sum_forward,
    weighted_sum_backward,
    sgd,
    adagrad,
    adam,
    sum_squares,
};

}  // namespace REGARD_ISA_ID
}  // namespace regard
