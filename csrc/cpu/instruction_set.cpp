// What the processor offers, and the choice of the set of loops that runs on it.
#include "instruction_set.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "../prune.h"
#include "targets.h"

namespace autoarch {
namespace {

constexpr const char* variable = "LIGHTNING_AUTOARCH_INSTRUCTION_SET";
constexpr InstructionSet best_first[] = {InstructionSet::avx512, InstructionSet::avx2, InstructionSet::plain};

std::string name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512:
      return "avx512";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::plain:
      return "plain";
  }
  throw std::invalid_argument("Expected an instruction set.");
}

InstructionSet choose() {
  const char* given = std::getenv(variable);
  const std::string wanted = given ? given : "";
  std::string there;
  for (const InstructionSet set : best_first) {
    if (!has(set)) continue;
    if (wanted.empty() || wanted == name_of(set)) return set;
    there += (there.empty() ? "" : ", ") + name_of(set);
  }
  throw std::invalid_argument(std::string("Expected ") + variable + " to be one of those that this processor has, " +
                              there + ", or unset, got '" + wanted + "'.");
}

}  // namespace

bool has(InstructionSet set) {
  if (set == InstructionSet::plain) return true;
#if AUTOARCH_X86_TARGETS
  __builtin_cpu_init();
  if (set == InstructionSet::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
  return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi2");
#else
  return false;
#endif
}

InstructionSet chosen_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> found;
  for (const InstructionSet set : best_first)
    if (has(set)) found.push_back(name_of(set));
  return found;
}

std::string instruction_set() { return name_of(chosen_set()); }

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
