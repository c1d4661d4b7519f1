// What a launcher knows of the device: a stream to put work on. Every call is checked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "../prune.h"
#include "runtime.h"
#include "tuning.h"

namespace autoarch {
namespace cuda {

// The device of `where` is the current one for as long as this lives.
class Stream {
 public:
  Stream(Where where, const char* caller)
      : guard_(where.device), stream_(static_cast<cudaStream_t>(where.stream)), caller_(caller) {
    check(cudaDeviceGetAttribute(&processors_, cudaDevAttrMultiProcessorCount, where.device), caller_);
  }

  // Blocks for `work` pieces of which each block takes one after the other: no more than the device runs at once.
  unsigned blocks_for(std::int64_t work) const {
    const std::int64_t most = std::int64_t{processors_} * tuning::blocks_per_processor;
    return static_cast<unsigned>(std::clamp<std::int64_t>(work, 1, most));
  }

  template <typename... Parameters, typename... Arguments>
  void launch(unsigned blocks, void (*kernel)(Parameters...), Arguments&&... arguments) const {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(blocks);
    config.blockDim = dim3(tuning::threads);
    config.stream = stream_;
    check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), caller_);
  }

  void clear(void* memory, std::int64_t bytes) const {
    check(cudaMemsetAsync(memory, 0, static_cast<std::size_t>(bytes), stream_), caller_);
  }

  // Waits for the stream.
  template <typename T>
  T fetch(const T* from) const {
    T value;
    check(cudaMemcpyAsync(&value, from, sizeof value, cudaMemcpyDeviceToHost, stream_), caller_);
    check(cudaStreamSynchronize(stream_), caller_);
    return value;
  }

 private:
  DeviceGuard guard_;
  cudaStream_t stream_;
  const char* caller_;
  int processors_ = 0;
};

}  // namespace cuda
}  // namespace autoarch
