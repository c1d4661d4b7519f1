// From a Dtype known at run time to the unsigned type of its bits, for the templates that do the work.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "prune.h"

namespace autoarch {

// Calls f(Bits{}) with the unsigned integer type as wide as `dtype`, and returns what it returns.
template <typename F>
auto with_bits(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float32:
      return f(std::uint32_t{});
    case Dtype::float64:
      return f(std::uint64_t{});
    case Dtype::bfloat16:
    case Dtype::float16:
      return f(std::uint16_t{});
  }
  throw std::invalid_argument("Expected `dtype` to be one of Dtype's values, got " +
                              std::to_string(static_cast<int>(dtype)) + ".");
}

inline void check_array(const void* data, std::int64_t n) {
  if (n < 0) throw std::invalid_argument("Expected `n` >= 0, got " + std::to_string(n) + ".");
  if (n > 0 && data == nullptr) throw std::invalid_argument("Expected `data` to point at n elements, got null.");
}

}  // namespace autoarch
