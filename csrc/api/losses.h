// The losses over items, as the API layer computes them: with what is beside them, or alone.
#pragma once
#include "api/check.h"

namespace regard {

void cross_entropy_value_and_grad(regard_cross_entropy* a, const Beside* beside);
void sampled_loss_value_and_grad(regard_sampled_loss* a, const Beside* beside);

}  // namespace regard
