// The cuda namespace of a build without CUDA: compiled instead of the .cu files, so that the bindings need no #if.
#include <stdexcept>

#include "../prune.h"

namespace autoarch {
namespace cuda {

State state() {
  State now;
  now.error = "built without CUDA";
  return now;
}

void count_nonzero(const void*, std::int64_t, Dtype, std::uint64_t*, int, void*) {
  throw std::runtime_error("lightning_autoarch._C was built without CUDA.");
}

}  // namespace cuda
}  // namespace autoarch
