// The loops in AVX-512: compiled under its target whatever the rest is compiled for, called only where the processor
// has it.
#include "targets.h"

#if AUTOARCH_X86_TARGETS
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false, inside gcc 12's own intrinsics
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "../ordered_bits.h"
#include "../prune.h"
#include "loops.h"

// Behind the other headers: what they define inline must stay fit for any processor.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi2,avx2,bmi,bmi2,popcnt,lzcnt")
#include "simd_avx512.h"
#include "loops_impl.h"

namespace autoarch {

template <typename Storage>
Loops<Storage> loops_avx512() {
  return make_loops<Avx512, Storage>();
}
template Loops<std::uint16_t> loops_avx512();
template Loops<std::uint32_t> loops_avx512();
template Loops<std::uint64_t> loops_avx512();

}  // namespace autoarch
#pragma GCC pop_options
#endif
