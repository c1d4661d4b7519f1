// What the processor offers, of what clones.h compiles for.
#include "../prune.h"

namespace autoarch {

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__))
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2")) found.emplace_back("sse4.2");
  if (__builtin_cpu_supports("popcnt")) found.emplace_back("popcnt");
  if (__builtin_cpu_supports("f16c")) found.emplace_back("f16c");
  if (__builtin_cpu_supports("fma")) found.emplace_back("fma");
  if (__builtin_cpu_supports("avx2")) found.emplace_back("avx2");
  if (__builtin_cpu_supports("avx512f")) found.emplace_back("avx512f");
  if (__builtin_cpu_supports("avx512bw")) found.emplace_back("avx512bw");
  if (__builtin_cpu_supports("avx512vl")) found.emplace_back("avx512vl");
#elif defined(__aarch64__) || defined(_M_ARM64)
  found.emplace_back("neon");
#endif
  return found;
}

}  // namespace autoarch
