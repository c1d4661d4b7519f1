// Runs cases: reads them from standard input, calls the cuda namespace as the bindings would, writes what came of it.
// A stream of 64-bit integers and raw bytes; tests/prune/test_device_code.py is the other side. "Device memory" is
// exactly as large as it must be, and is filled with a pattern first.
#include "cuda_runtime.h"

#include <cstdio>
#include <exception>
#include <stdexcept>

#include <string>
#include <vector>

#include "cuda/bracket.h"
#include "cuda/tuning.h"
#include "cuda/work_list.h"
#include "prune.h"

namespace {

using namespace autoarch;
using std::int64_t;

void read(void* to, std::size_t bytes) {
  if (bytes > 0 && std::fread(to, 1, bytes, stdin) != bytes) throw std::runtime_error("the input ends early");
}
void write(const void* from, std::size_t bytes) { std::fwrite(from, 1, bytes, stdout); }

int64_t number() {
  int64_t x;
  return read(&x, sizeof x), x;
}
void put(int64_t x) { write(&x, sizeof x); }
double real() {
  double x;
  return read(&x, sizeof x), x;
}

class Memory {
 public:
  explicit Memory(std::size_t bytes) : bytes_(bytes), data_(std::aligned_alloc(256, (bytes + 255) / 256 * 256 + 256)) {
    exact_ = bytes % 16 == 0 ? std::malloc(bytes + (bytes == 0)) : nullptr;  // malloc aligns to 16: its end is guarded
    std::memset(data(), 0xcd, bytes);
  }
  Memory(Memory&& other) : bytes_(other.bytes_), data_(other.data_), exact_(other.exact_) {
    other.data_ = other.exact_ = nullptr;
  }
  ~Memory() { std::free(data_), std::free(exact_); }
  std::uint8_t* data() const { return static_cast<std::uint8_t*>(exact_ ? exact_ : data_); }
  std::size_t size() const { return bytes_; }
  void fill() { read(data(), bytes_); }
  void dump() const { write(data(), bytes_); }

 private:
  std::size_t bytes_;
  void* data_;
  void* exact_;
};

struct Tensors {
  Arrays arrays;
  std::vector<Memory> storages;

  explicit Tensors(std::size_t item) {
    for (int64_t left = number(); left > 0; --left) {
      storages.emplace_back(static_cast<std::size_t>(number()));
      storages.back().fill();
      Array array;
      array.data = storages.back().data() + number() * static_cast<int64_t>(item);
      array.n = number();
      array.layout.dims = static_cast<int>(number());
      for (int d = 0; d < array.layout.dims; ++d) array.layout.size[d] = number(), array.layout.stride[d] = number();
      arrays.push_back(array);
    }
  }
  void dump() const {
    for (const Memory& storage : storages) storage.dump();
  }
};

std::size_t mask_bytes(int64_t n) { return static_cast<std::size_t>((n + 63) / 64 * 8); }

std::vector<Memory> masks_of(const Arrays& arrays, bool fill) {
  std::vector<Memory> masks;
  for (const Array& array : arrays) {
    masks.emplace_back(mask_bytes(array.n));
    if (fill) masks.back().fill();
  }
  return masks;
}

std::size_t item_of(Dtype dtype) { return dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2; }

void run_select(Dtype dtype) {
  namespace tuning = cuda::tuning;
  Tensors tensors(item_of(dtype));
  Request request;
  const bool masked = number(), in_place = number(), write_bits = number();
  request.regrow = number();
  request.remove = number();
  request.keep_nan = number();
  request.zero = number();
  tuning::collect_all = number();
  tuning::sample_keys_max = number();
  tuning::scratch_bytes = number();
  tuning::bracket_deviations = real();
  const auto given = masks_of(tensors.arrays, masked), out = masks_of(tensors.arrays, false);
  for (std::size_t i = 0; i < tensors.arrays.size(); ++i) {
    if (masked) request.given.push_back(reinterpret_cast<Bits>(given[i].data()));
    if (write_bits) request.out.push_back(reinterpret_cast<BitsOut>((in_place ? given : out)[i].data()));
  }
  const Memory scratch(static_cast<std::size_t>(cuda::select_scratch(tensors.arrays, dtype)));
  const auto bytes = static_cast<int64_t>(scratch.size());
  emulation::waits = 0;
  const Threshold found = cuda::select(tensors.arrays, request, dtype, scratch.data(), bytes, {});
  put(1), put(static_cast<int64_t>(found.key)), put(found.kept_equal), put(found.numbers), put(found.nan_array);
  put(bytes), put(emulation::waits);
  tensors.dump();
  if (write_bits)
    for (const Memory& mask : in_place ? given : out) mask.dump();
}

void run_apply(Dtype dtype) {
  const Tensors tensors(item_of(dtype));
  std::vector<Bits> bits;
  const auto masks = masks_of(tensors.arrays, true);
  for (const Memory& mask : masks) bits.push_back(reinterpret_cast<Bits>(mask.data()));
  cuda::apply_masks(tensors.arrays, bits, dtype, {});
  put(1), tensors.dump();
}

void run_soft(Dtype dtype) {
  const Tensors tensors(item_of(dtype));
  std::vector<double> amounts;
  for (std::size_t i = 0; i < tensors.arrays.size(); ++i) amounts.push_back(real());
  cuda::soft_threshold(tensors.arrays, amounts, dtype, {});
  put(1), tensors.dump();
}

Groups groups() {
  Groups shape;
  shape.outer = number(), shape.length = number(), shape.inner = number();
  return shape;
}

void run_nm(Dtype dtype) {
  const Tensors tensors(item_of(dtype));
  const Groups shape = groups();
  const int n = static_cast<int>(number()), m = static_cast<int>(number());
  const Memory out(mask_bytes(tensors.arrays[0].n));
  cuda::nm_mask(tensors.arrays[0], shape, n, m, reinterpret_cast<BitsOut>(out.data()), dtype, {});
  put(1), out.dump();
}

void run_transposable(Dtype dtype) {
  const Tensors tensors(item_of(dtype));
  Matrices shape;
  shape.batch = number(), shape.rows = number(), shape.columns = number();
  const Memory out(mask_bytes(tensors.arrays[0].n));
  cuda::transposable_mask(tensors.arrays[0], shape, reinterpret_cast<BitsOut>(out.data()), dtype, {});
  put(1), out.dump();
}

void run_groups(Dtype dtype) {
  const Tensors tensors(item_of(dtype));
  const Groups shape = groups();
  const int p = static_cast<int>(number());
  const double amount = real();
  const Memory norms(static_cast<std::size_t>(shape.length) * 8);
  const auto values = reinterpret_cast<double*>(norms.data());
  cuda::group_norms(tensors.arrays[0], shape, p, values, dtype, {});
  cuda::group_soft_threshold(tensors.arrays[0], shape, values, amount, dtype, {});
  put(1), norms.dump(), tensors.dump();
}

void run_count(Dtype dtype) {
  const Tensors tensors(item_of(dtype));
  std::uint64_t count = 0xcdcdcdcd;
  cuda::count_nonzero(tensors.arrays[0].data, tensors.arrays[0].n, dtype, &count, {});
  put(1), put(static_cast<int64_t>(count));
}

// The batches of arrays of these sizes, negative: strided. (batch, chunks of the batch, n, first, number, payload)
// each.
void run_batches() {
  Arrays arrays(static_cast<std::size_t>(number()));
  for (Array& array : arrays) {
    array.n = number();
    if (array.n < 0) array.n = -array.n, array.layout.dims = 1;
  }
  const auto batches = cuda::batches_of<std::size_t>(arrays, [](std::size_t i) { return i; });
  put(1), put(cuda::chunks_of(arrays));
  int64_t items = 0;
  for (const auto& batch : batches) items += batch.list.items;
  put(items);
  for (std::size_t b = 0; b < batches.size(); ++b)
    for (int i = 0; i < batches[b].list.items; ++i) {
      const auto& list = batches[b].list;
      const auto& item = list.item[i];
      const std::uint32_t last = item.first + static_cast<std::uint32_t>(cuda::chunks_of(item.n)) - 1;
      const bool found = &cuda::item_at(list, item.first, &std::decay_t<decltype(item)>::first) == &item &&
                         &cuda::item_at(list, last, &std::decay_t<decltype(item)>::first) == &item;
      put(static_cast<int64_t>(b)), put(list.chunks), put(item.n), put(item.first), put(item.number);
      put(static_cast<int64_t>(item.payload)), put(cuda::array_of_chunk(arrays, item.number)), put(found);
    }
}

void run_ranks() {
  const auto sampled = static_cast<cuda::Count>(number()), candidates = static_cast<cuda::Count>(number());
  const auto remove = static_cast<cuda::Count>(number());
  const double run = real(), deviations = real();
  const cuda::SampleRanks ranks = cuda::sample_ranks(sampled, candidates, remove, run, deviations);
  put(1), put(static_cast<int64_t>(ranks.low)), put(static_cast<int64_t>(ranks.high));
}

void run_place() {
  cuda::Count counts[5];
  for (auto& count : counts) count = static_cast<cuda::Count>(number());
  const cuda::Placed placed = cuda::place_of({counts[0], counts[1], counts[2], counts[3]}, counts[4]);
  put(1), put(static_cast<int64_t>(placed.place)), put(static_cast<int64_t>(placed.rank));
  put(static_cast<int64_t>(placed.before));
}

// Kernels with the mistakes that the emulation must see.
void exchange_without_barrier(int* values) {
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (threadIdx.x % 2)
    __syncwarp();
  else
    __syncwarp();
  values[threadIdx.x] += values[(threadIdx.x + 32) % 64];  // the other warp's
}
void same_word_in_two_blocks(int* values) {
  if (threadIdx.x == blockIdx.x) values[0] = 1;
}
void half_a_barrier(int*) {
  if (threadIdx.x < 32) __syncthreads();
}

void run_mistake() {
  void (*const kernels[])(int*) = {exchange_without_barrier, same_word_in_two_blocks, half_a_barrier};
  int values[64] = {};
  cudaLaunchConfig_t config = {dim3(2), dim3(64), 0, nullptr};
  if (const int64_t which = number(); which != 1)
    config.gridDim = dim3(1), cudaLaunchKernelEx(&config, kernels[which], values);
  else
    cudaLaunchKernelEx(&config, kernels[which], values);
  put(1);
}

void run_case(int64_t operation, Dtype dtype) {
  switch (operation) {
    case 0:
      return run_select(dtype);
    case 1:
      return run_apply(dtype);
    case 2:
      return run_soft(dtype);
    case 3:
      return run_nm(dtype);
    case 4:
      return run_transposable(dtype);
    case 5:
      return run_groups(dtype);
    case 6:
      return run_count(dtype);
    case 7:
      return run_batches();
    case 8:
      return run_ranks();
    case 9:
      return run_place();
    case 10:
      return run_mistake();
  }
  throw std::runtime_error("no such operation");
}

}  // namespace

int main() {
  for (int64_t left = number(); left > 0; --left) {
    const int64_t operation = number();
    try {
      run_case(operation, static_cast<Dtype>(number()));
    } catch (
        const std::exception& error) {  // thrown before anything of the case is written, but after all of it is read
      const std::string what = error.what();
      put(0), put(static_cast<int64_t>(what.size())), write(what.data(), what.size());
    }
    std::fflush(stdout);
  }
}
