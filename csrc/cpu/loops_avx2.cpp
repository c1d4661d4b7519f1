// The loops in AVX2: compiled under its target whatever the rest is compiled for, called only where the processor has
// it.
#include "targets.h"

#if AUTOARCH_X86_TARGETS
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../ordered_bits.h"
#include "../prune.h"
#include "loops.h"

// Behind the other headers: what they define inline must stay fit for any processor.
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,popcnt,lzcnt")
#include "simd_avx2.h"
#include "loops_impl.h"

namespace autoarch {

template <typename Storage>
Loops<Storage> loops_avx2() {
  return make_loops<Avx2, Storage>();
}
template Loops<std::uint16_t> loops_avx2();
template Loops<std::uint32_t> loops_avx2();
template Loops<std::uint64_t> loops_avx2();

}  // namespace autoarch
#pragma GCC pop_options
#endif
