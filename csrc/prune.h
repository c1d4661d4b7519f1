// The C++ API of lightning_autoarch._C: what a pruning operation promises, whoever calls it.
//
// Three layers, none of which knows the next:
//   device code (cuda/*.cuh, loops in cpu/*.cpp)   pointers and integers
//   launchers   (cuda/*.cu)                        devices, streams, launch errors
//   bindings    (bindings.cpp)                     Python
//
// Memory belongs to the caller. Nothing here allocates, keeps a pointer after it returns, or links against libtorch:
// a tensor is its data pointer, its number of elements and its Dtype, and its elements are contiguous.
//
// Errors: std::invalid_argument for what the caller got wrong, std::runtime_error (with CUDA's own words) for what
// the device reports. Where an error is thrown, nothing was written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

// "Exactly zero" and "denormals count" are part of the contract; under fast-math the compiler may break both, and
// linking with it sets flush-to-zero for the whole process that loads the extension.
#if defined(__FAST_MATH__)
#error "lightning_autoarch must not be compiled with -ffast-math or -Ofast: see csrc/prune.h"
#endif

namespace autoarch {

enum class Dtype : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };

// How many of the n elements at `data` are not zero.
//   n >= 0; n == 0 reads nothing, and `data` may then be null.
//   -0.0 is zero. NaN, the infinities and every denormal are not, whatever the processor's flush-to-zero mode is.
//   Exact for every n: the counter has 64 bits. The same answer from every build, thread count and device.
std::int64_t count_nonzero(const void* data, std::int64_t n, Dtype dtype);

// What the processor that runs this offers, of what the kernels are compiled for; names as compilers spell them.
std::vector<std::string> cpu_features();

namespace cuda {

// What the CUDA runtime says now. `error` is empty exactly if at least one device can be used.
struct State {
  int device_count = 0;
  int runtime_version = 0;  // 13000 is CUDA 13.0; 0 in a build without CUDA
  int driver_version = 0;   // the newest CUDA that the driver knows; 0 without a driver
  std::string error;
};

// Asks the driver, and so initialises it, but creates no context on any device.
State state();

// As autoarch::count_nonzero on `device`: enqueued on `stream` (a cudaStream_t of that device; null is the default
// stream). Does not synchronise: `*count`, 8 bytes on that device, holds the answer when the stream gets there.
// The caller's current device is the same afterwards. In a build without CUDA it throws std::runtime_error.
void count_nonzero(const void* data, std::int64_t n, Dtype dtype, std::uint64_t* count, int device, void* stream);

}  // namespace cuda
}  // namespace autoarch
