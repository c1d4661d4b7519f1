// Checks every call of the CUDA runtime, and reports a failure in the words of CUDA.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace autoarch {
namespace cuda {

inline std::string describe(cudaError_t error) {
  return "CUDA error " + std::to_string(static_cast<int>(error)) + " (" + cudaGetErrorName(error) +
         "): " + cudaGetErrorString(error);
}

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + describe(error));
}

// Makes `device` the current one for a scope. The runtime linked into this extension and the one that torch brings
// see the same current context, so it is given back as it was found.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (device == previous_) return;
    check(cudaSetDevice(device), "cudaSetDevice");
    switched_ = true;
  }
  ~DeviceGuard() {
    if (switched_) static_cast<void>(cudaSetDevice(previous_));  // a destructor must not throw
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool switched_ = false;
};

}  // namespace cuda
}  // namespace autoarch
