// From a Dtype known at run time to the templates that do the work.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "numeric.h"
#include "prune.h"

namespace autoarch {

// Calls f(std::integral_constant<Dtype, dtype>{}) and returns what it returns.
template <typename F>
auto with_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float32:
      return f(std::integral_constant<Dtype, Dtype::float32>{});
    case Dtype::float64:
      return f(std::integral_constant<Dtype, Dtype::float64>{});
    case Dtype::bfloat16:
      return f(std::integral_constant<Dtype, Dtype::bfloat16>{});
    case Dtype::float16:
      return f(std::integral_constant<Dtype, Dtype::float16>{});
  }
  throw std::invalid_argument("Expected `dtype` to be one of Dtype's values, got " +
                              std::to_string(static_cast<int>(dtype)) + ".");
}

// Calls f(Bits{}) with the unsigned integer type as wide as `dtype`, and returns what it returns.
template <typename F>
auto with_bits(Dtype dtype, F&& f) {
  return with_dtype(dtype, [&](auto constant) { return f(typename Number<decltype(constant)::value>::Storage{}); });
}

inline void check_array(const void* data, std::int64_t n) {
  if (n < 0) throw std::invalid_argument("Expected `n` >= 0, got " + std::to_string(n) + ".");
  if (n > 0 && data == nullptr) throw std::invalid_argument("Expected `data` to point at n elements, got null.");
}

}  // namespace autoarch
