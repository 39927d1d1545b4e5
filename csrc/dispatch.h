// Which instruction sets were built, which this machine has, which one is in use.
#pragma once
#include <string>
#include <vector>

#include "cpu/kernels.h"

namespace regard {

std::vector<const Kernels*> built_kernels();      // worst first
std::vector<const Kernels*> available_kernels();  // those that this machine can run
const Kernels& kernels();                         // in use; throws std::invalid_argument if REGARD_ISA cannot be used
void set_kernels(const std::string& name);        // throws std::invalid_argument that lists what there is

}  // namespace regard
