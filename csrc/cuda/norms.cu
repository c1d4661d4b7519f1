// Launcher of norms.cuh.
#include "norms.cuh"

#include "../dispatch.h"
#include "../prune.h"
#include "arguments.h"
#include "launch.h"

namespace autoarch {
namespace cuda {

void group_norms(const Array& array, const Groups& shape, int p, double* norms, Dtype dtype, Where where) {
  check_groups(array, shape);
  if (p != 1 && p != 2) throw std::invalid_argument("Expected `p` to be 1 or 2, got " + std::to_string(p) + ".");
  if (shape.length == 0) return;
  const Stream stream(where, "group_norms");
  const unsigned blocks = stream.blocks_for((shape.length - 1) / (tuning::threads / 32) + 1);
  with_dtype(dtype, [&](auto constant) {
    constexpr Dtype type = decltype(constant)::value;
    stream.launch(blocks, group_norms_kernel<type>, static_cast<const typename Number<type>::Storage*>(array.data),
                  array.layout, shape.outer, shape.length, shape.inner, p, norms);
  });
}

}  // namespace cuda
}  // namespace autoarch
