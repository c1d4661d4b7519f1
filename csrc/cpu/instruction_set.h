// Which of the sets of loops runs: the best that the processor has, or the one that LIGHTNING_AUTOARCH_INSTRUCTION_SET
// names, for tests and benchmarks.
#pragma once

namespace autoarch {

enum class InstructionSet { plain, avx2, avx512 };

bool has(InstructionSet set);

// Decided by the first call that succeeds. Throws std::invalid_argument where the variable names one that is not there.
InstructionSet chosen_set();

}  // namespace autoarch
