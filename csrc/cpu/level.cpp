// Compiled once per level above a whole instruction set: the few kernels that gain from what the level adds.
#include "cpu/kernels.h"

namespace regard {
namespace REGARD_ISA_ID {

void extend(Kernels& table);
void extend(Kernels& table) { table.name = REGARD_ISA_NAME; }

}  // namespace REGARD_ISA_ID
}  // namespace regard
