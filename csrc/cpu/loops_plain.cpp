// The loops in plain C++, and the choice among those there are.
#include "instruction_set.h"
#include "loops.h"
#include "loops_impl.h"
#include "simd_plain.h"
#include "targets.h"

namespace autoarch {
namespace {

template <typename Storage>
Loops<Storage> chosen_loops() {
  switch (chosen_set()) {
#if AUTOARCH_X86_TARGETS
    case InstructionSet::avx512:
      return loops_avx512<Storage>();
    case InstructionSet::avx2:
      return loops_avx2<Storage>();
#endif
    default:
      return loops_plain<Storage>();
  }
}

}  // namespace

template <typename Storage>
Loops<Storage> loops_plain() {
  return make_loops<Plain, Storage>();
}
template Loops<std::uint16_t> loops_plain();
template Loops<std::uint32_t> loops_plain();
template Loops<std::uint64_t> loops_plain();

template <typename Storage>
const Loops<Storage>& loops() {
  static const Loops<Storage> chosen = chosen_loops<Storage>();
  return chosen;
}
template const Loops<std::uint16_t>& loops();
template const Loops<std::uint32_t>& loops();
template const Loops<std::uint64_t>& loops();

}  // namespace autoarch
