// The loops in plain C++, and the choice among those there are.
#include "clones.h"
#include "loops.h"
#include "loops_impl.h"
#include "simd_plain.h"

namespace autoarch {
namespace {

template <typename Storage>
Loops<Storage> best() {
#if AUTOARCH_X86_TARGETS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vbmi2"))
    return loops_avx512<Storage>();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) return loops_avx2<Storage>();
#endif
  return loops_plain<Storage>();
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
  static const Loops<Storage> chosen = best<Storage>();
  return chosen;
}
template const Loops<std::uint16_t>& loops();
template const Loops<std::uint32_t>& loops();
template const Loops<std::uint64_t>& loops();

}  // namespace autoarch
