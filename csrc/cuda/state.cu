// What the CUDA runtime says about the machine it finds itself on.
#include "../prune.h"
#include "runtime.h"

namespace autoarch {
namespace cuda {

State state() {
  State now;
  check(cudaRuntimeGetVersion(&now.runtime_version), "cudaRuntimeGetVersion");
  check(cudaDriverGetVersion(&now.driver_version), "cudaDriverGetVersion");  // 0, and no error, without a driver
  const cudaError_t error = cudaGetDeviceCount(&now.device_count);
  if (error != cudaSuccess) {
    now.device_count = 0;
    now.error = describe(error);
    static_cast<void>(cudaGetLastError());  // so that the next call's check does not find this one
  } else if (now.device_count == 0) {
    now.error = "no CUDA device is visible";
  }
  return now;
}

}  // namespace cuda
}  // namespace autoarch
