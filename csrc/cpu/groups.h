// Arrays seen as (outer, length, inner).
#pragma once

#include <stdexcept>

#include "../dispatch.h"
#include "../prune.h"

namespace autoarch {

inline void check_groups(const Array& array, const Groups& shape) {
  check_array(array.data, array.n);
  if (shape.outer < 0 || shape.length < 0 || shape.inner < 0 || shape.outer * shape.length * shape.inner != array.n)
    throw std::invalid_argument("Expected outer * length * inner to be the array's number of elements.");
}

}  // namespace autoarch
