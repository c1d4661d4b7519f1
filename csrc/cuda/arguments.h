// Checks of the arguments that a launcher is called with.
#pragma once

#include <stdexcept>
#include <string>

#include "../dispatch.h"
#include "../prune.h"

namespace autoarch {
namespace cuda {

inline void check_amount(double amount) {
  if (!(amount >= 0)) throw std::invalid_argument("Expected amounts >= 0, got " + std::to_string(amount) + ".");
}

inline void check_groups(const Array& array, const Groups& shape) {
  check_array(array.data, array.n);
  if (shape.outer < 0 || shape.length < 0 || shape.inner < 0 || shape.outer * shape.length * shape.inner != array.n)
    throw std::invalid_argument("Expected outer * length * inner to be the array's number of elements.");
}

}  // namespace cuda
}  // namespace autoarch
