// The cuda namespace of a build without CUDA: compiled instead of the .cu files, so that the bindings need no #if.
#include <stdexcept>

#include "../prune.h"

namespace autoarch {
namespace cuda {
namespace {

[[noreturn]] void absent() { throw std::runtime_error("lightning_autoarch._C was built without CUDA."); }

}  // namespace

State state() {
  State now;
  now.error = "built without CUDA";
  return now;
}

std::int64_t select_scratch(const Arrays&, Dtype) { absent(); }
Threshold select(const Arrays&, const Request&, Dtype, void*, std::int64_t, Where) { absent(); }
void apply_masks(const Arrays&, const std::vector<Bits>&, Dtype, Where) { absent(); }
void nm_mask(const Array&, const Groups&, int, int, BitsOut, Dtype, Where) { absent(); }
void transposable_mask(const Array&, const Matrices&, BitsOut, Dtype, Where) { absent(); }
void soft_threshold(const Arrays&, const std::vector<double>&, Dtype, Where) { absent(); }
void group_norms(const Array&, const Groups&, int, double*, Dtype, Where) { absent(); }
void group_soft_threshold(const Array&, const Groups&, const double*, double, Dtype, Where) { absent(); }
void count_nonzero(const void*, std::int64_t, Dtype, std::uint64_t*, Where) { absent(); }

}  // namespace cuda
}  // namespace autoarch
