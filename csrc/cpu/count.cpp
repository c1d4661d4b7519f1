// count_nonzero on the CPU: one read of the data, nothing else.
#include <cstdint>

#include "../dispatch.h"
#include "../prune.h"
#include "loops.h"

namespace autoarch {

std::int64_t count_nonzero(const void* data, std::int64_t n, Dtype dtype) {
  check_array(data, n);
  return with_bits(dtype, [=](auto bits) {
    return loops<decltype(bits)>().count_nonzero(static_cast<const decltype(bits)*>(data), n);
  });
}

}  // namespace autoarch
