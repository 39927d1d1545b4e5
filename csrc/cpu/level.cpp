// Compiled once per level above a whole instruction set: the few kernels that gain from what the level adds.
#include "cpu/cross_entropy_pass.h"
#include "cpu/kernels.h"

#if !defined(__AVX512BF16__)
#include "cpu/topk_quantized.h"
#endif

namespace regard {
namespace REGARD_ISA_ID {

void extend(Kernels& table);
void extend(Kernels& table) {
  table.name = REGARD_ISA_NAME;
#if defined(__AMX_BF16__) || defined(REGARD_TILES_BY_HAND)
  table.cross_entropy[kHigh] = cross_entropy_pass<Bf16Form<kSplitScores>>();
  table.cross_entropy[kMedium] = cross_entropy_pass<Bf16Form<kPlainScores>>();
#elif defined(__AVX512BF16__)  // one product in float32 costs less than three in bfloat16
  table.cross_entropy[kHigh] = cross_entropy_pass<Bf16Form<kFloat32Scores>>();
  table.cross_entropy[kMedium] = cross_entropy_pass<Bf16Form<kPlainScores>>();
#endif
#if !defined(__AVX512BF16__)
  table.topk_quantized = topk_quantized;  // the levels above keep this one
#endif
}

}  // namespace REGARD_ISA_ID
}  // namespace regard
