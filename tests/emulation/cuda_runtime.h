// CUDA on the host: what csrc/cuda needs of CUDA C++ and of its runtime, so that g++ compiles the very same .cu files.
// Every CUDA thread of a block is a fiber (emulation.cpp); it is compiled in front of everything, as nvcc does.
//
//   __syncthreads, __syncwarp    wait, and order memory
//   ballots and shuffles         wait, and order nothing: as CUDA says; full warps only
//   atomics                      relaxed
//   __shared__                   one copy a block, with whatever the last block left in it
//
// Under -DEMULATION_TSAN blocks are threads of the system, side by side, and the thread sanitizer is told of the
// fibers: two accesses that no barrier orders are a race for it, in whichever order they happened to run.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __constant__
#define __launch_bounds__(...)
#if defined(EMULATION_TSAN)
#define __shared__ static thread_local
#else
#define __shared__ static
#endif

struct uint4 {
  unsigned x, y, z, w;
} __attribute__((aligned(16)));

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

inline std::int64_t waits = 0;  // of the host for the device

void launch(unsigned blocks, unsigned threads, const std::function<void()>& kernel);
void sync_block();
void sync_warp(unsigned mask);
// What the lanes of this warp gave, once all have: 32 values.
const std::uint64_t* exchange(unsigned mask, std::uint64_t mine);
std::uint64_t read(const std::uint64_t* values, int lane);

template <typename T>
T shuffle(unsigned mask, T mine, int from) {
  static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
  std::uint64_t bits = 0;
  std::memcpy(&bits, &mine, sizeof mine);
  const std::uint64_t theirs = read(exchange(mask, bits), from);
  if (from >= 0 && from < 32) std::memcpy(&mine, &theirs, sizeof mine);
  return mine;
}

}  // namespace emulation

inline void __syncthreads() { emulation::sync_block(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::sync_warp(mask); }

inline unsigned __ballot_sync(unsigned mask, bool vote) {
  const std::uint64_t* votes = emulation::exchange(mask, vote);
  unsigned word = 0;
  for (int i = 0; i < 32; ++i) word |= static_cast<unsigned>(emulation::read(votes, i)) << i;
  return word;
}

template <typename T>
T __shfl_sync(unsigned mask, T mine, int from) {
  return emulation::shuffle(mask, mine, from);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T mine, int by) {
  return emulation::shuffle(mask, mine, static_cast<int>(threadIdx.x % 32) + by);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T mine, int by) {
  return emulation::shuffle(mask, mine, static_cast<int>(threadIdx.x % 32) ^ by);
}

template <typename T>
T atomicAdd(T* where, T x) {
  return __atomic_fetch_add(where, x, __ATOMIC_RELAXED);
}
template <typename T>
T atomicOr(T* where, T x) {
  return __atomic_fetch_or(where, x, __ATOMIC_RELAXED);
}
template <typename T>
T atomicMin(T* where, T x) {
  T old = __atomic_load_n(where, __ATOMIC_RELAXED);
  while (x < old && !__atomic_compare_exchange_n(where, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
  return old;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dsqrt_rn(double a) { return std::sqrt(a); }

// The runtime: one device with two multiprocessors, one stream, nothing waits.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline const char* cudaGetErrorName(cudaError_t) { return "cudaSuccess"; }
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = 2, cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t) {
  return std::memset(to, byte, bytes), cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  return std::memcpy(to, from, bytes), cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return ++emulation::waits, cudaSuccess; }

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  static_assert((0 + ... + sizeof(Parameters)) <= 4096, "kernel arguments have 4 KB on sm_75");
  emulation::launch(config->gridDim.x, config->blockDim.x, [&] { kernel(arguments...); });
  return cudaSuccess;
}
