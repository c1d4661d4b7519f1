// The way through a chunk: 16 bytes a thread, several loads under way, the bits of a mask beside them.
//
// A warp's packs are neighbours: 32 of them are 64, 128 or 256 elements, whole words of the mask. All threads of a warp
// make the same calls, so that a visitor may use the warp's collective operations.
#pragma once

#include <cstdint>
#include <cstring>

#include "../prune.h"
#include "tuning.h"
#include "work_list.h"

namespace autoarch {
namespace cuda {

constexpr unsigned all_lanes = 0xffffffffu;

template <typename Bits>
constexpr int pack_size = 16 / static_cast<int>(sizeof(Bits));

template <typename Bits>
constexpr unsigned whole_pack = (1u << pack_size<Bits>)-1u;

// Neighbours in logical order. Element e is element `at + e` of its array; bit e of `live` says that there is one, of
// `marked` that its bit in the mask is 1 (and that it is live).
template <typename Bits>
struct Pack {
  Bits bits[pack_size<Bits>];
  std::int64_t at;
  unsigned live, marked;
};

// Of element `at` >= 0: its word in a mask, and its bit there.
__device__ inline std::uint64_t word_of(std::int64_t at) { return static_cast<std::uint64_t>(at) / 32; }
__device__ inline unsigned bit_of(std::int64_t at) { return static_cast<unsigned>(at) % 32; }

__device__ inline std::int64_t quotient(std::int64_t a, std::int64_t b) {  // of numbers >= 0
  if ((a | b) >> 32) return a / b;
  return static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);  // several times faster
}

__device__ inline std::int64_t offset_of(const Layout& layout, std::int64_t i) {
  if (layout.dims == 0) return i;
  std::int64_t offset = 0;
  for (int d = layout.dims - 1; d > 0; --d) {
    const std::int64_t rest = quotient(i, layout.size[d]);
    offset += (i - rest * layout.size[d]) * layout.stride[d];
    i = rest;
  }
  return offset + i * layout.stride[0];
}

// 16 bytes, element after element: loops over them stay loops, so that what is seldom run is short.
template <typename Bits>
struct Shifter {
  std::uint64_t low, high;

  __device__ explicit Shifter(Pack<Bits>& pack) { memcpy(this, pack.bits, sizeof *this); }
  __device__ void write(Pack<Bits>& pack) const { memcpy(pack.bits, this, sizeof *this); }
  __device__ Bits pass(Bits in) {  // the first one out, another one in behind the last
    const auto out = static_cast<Bits>(low);
    if constexpr (sizeof(Bits) == 8) {
      low = high, high = in;
    } else {
      constexpr int width = 8 * static_cast<int>(sizeof(Bits));
      low = low >> width | high << (64 - width);
      high = high >> width | static_cast<std::uint64_t>(in) << (64 - width);
    }
    return out;
  }
};

// A pack is read in two steps, so that the loads of several packs are on their way together: `start` issues what can be
// issued at once, `finish` fetches the rest.

// Any layout, any alignment, up to element `end`: one by one.
template <typename Bits>
struct OneByOne {
  static constexpr int in_flight = 1;
  Bits* data;
  const Layout& layout;
  std::int64_t end;

  __device__ void start(Pack<Bits>& pack) const { pack.live = 0; }

  __device__ void finish(Pack<Bits>& pack) const {
    Shifter<Bits> shifter(pack);
#pragma unroll 1
    for (int e = 0; e < pack_size<Bits>; ++e) {
      const bool live = pack.at + e < end;
      shifter.pass(live ? data[offset_of(layout, pack.at + e)] : Bits{0});
      pack.live |= static_cast<unsigned>(live) << e;
    }
    shifter.write(pack);
  }

  __device__ void store(Pack<Bits>& pack, unsigned changed) const {
    Shifter<Bits> shifter(pack);
#pragma unroll 1
    for (int e = 0; e < pack_size<Bits>; ++e) {
      const Bits value = shifter.pass(0);
      if (changed >> e & 1u) data[offset_of(layout, pack.at + e)] = value;
    }
  }
};

// Elements that lie together, aligned to 16 bytes, up to element `end`.
template <typename Bits>
struct Together {
  static constexpr int in_flight = tuning::packs_in_flight;
  Bits* data;
  const Layout& layout;
  std::int64_t end;

  __device__ bool is_whole(const Pack<Bits>& pack) const { return pack.at + pack_size<Bits> <= end; }

  __device__ void start(Pack<Bits>& pack) const {
    pack.live = 0;
    if (!is_whole(pack)) return;
    const uint4 raw = *reinterpret_cast<const uint4*>(data + pack.at);
    memcpy(pack.bits, &raw, sizeof raw);
    pack.live = whole_pack<Bits>;
  }

  __device__ void finish(Pack<Bits>& pack) const {
    if (pack.live == 0 && pack.at < end) OneByOne<Bits>{data, layout, end}.finish(pack);
  }

  __device__ void store(Pack<Bits>& pack, unsigned changed) const {
    if (!is_whole(pack)) return OneByOne<Bits>{data, layout, end}.store(pack, changed);
    uint4 raw;
    memcpy(&raw, pack.bits, sizeof raw);
    *reinterpret_cast<uint4*>(data + pack.at) = raw;
  }
};

template <typename Bits, typename Access, typename Visit>
__device__ inline void sweep(const Access& access, std::int64_t begin, const std::uint32_t* mask, Visit& visit) {
  constexpr int n = Access::in_flight, size = pack_size<Bits>;
  for (std::int64_t start = begin; start < access.end; start += n * size * tuning::threads) {
    Pack<Bits> packs[n];
    std::uint32_t words[n];
#pragma unroll
    for (int j = 0; j < n; ++j) {
      packs[j] = {};
      packs[j].at = start + (j * tuning::threads + static_cast<int>(threadIdx.x)) * size;
      access.start(packs[j]);
    }
#pragma unroll
    for (int j = 0; j < n; ++j)
      words[j] = mask != nullptr && packs[j].at < access.end ? mask[word_of(packs[j].at)] : all_lanes;
#pragma unroll
    for (int j = 0; j < n; ++j) {
      access.finish(packs[j]);
      packs[j].marked = packs[j].live & (words[j] >> bit_of(packs[j].at));
      visit(access, packs[j]);
    }
  }
}

// visit(access, pack) for all packs of a chunk of the item, the mask (or null) read along. Called by the whole block.
template <typename Bits, typename Payload, typename Visit>
__device__ inline void for_each_pack(const Item<Payload>& item, const Layout& layout, std::uint32_t chunk,
                                     const std::uint32_t* mask, Visit visit) {
  const auto data = static_cast<Bits*>(item.data);
  const std::int64_t begin = static_cast<std::int64_t>(chunk - item.first) * tuning::chunk;
  const std::int64_t end = begin + tuning::chunk < item.n ? begin + tuning::chunk : item.n;
  const bool aligned = reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  if (layout.dims == 0 && aligned)
    sweep<Bits>(Together<Bits>{data, layout, end}, begin, mask, visit);
  else
    sweep<Bits>(OneByOne<Bits>{data, layout, end}, begin, mask, visit);
}

// Writes the warp's bits, pack_size a lane from element `at` on, into the mask of an array of n elements; the bits
// behind the last one are 0. Lanes that share a word add theirs up, one of them writes.
template <typename Bits>
__device__ inline void write_mask(std::uint32_t* mask, std::int64_t at, std::int64_t n, unsigned bits) {
  constexpr int sharing = 32 / pack_size<Bits>;
  unsigned word = bits << bit_of(at);
#pragma unroll
  for (int offset = 1; offset < sharing; offset *= 2) word |= __shfl_xor_sync(all_lanes, word, offset);
  __syncwarp();  // the mask that was read may be this one
  if (threadIdx.x % sharing == 0 && at < (n + 63) / 64 * 64) mask[word_of(at)] = word;
}

// Sets the elements whose bit in `drop` is 1 to +0.
template <typename Bits, typename Access>
__device__ inline void write_zeros(const Access& access, Pack<Bits>& pack, unsigned drop) {
  unsigned changed = 0;
#pragma unroll
  for (int e = 0; e < pack_size<Bits>; ++e)
    if ((drop >> e & 1u) && pack.bits[e] != 0) pack.bits[e] = 0, changed |= 1u << e;
  if (changed != 0) access.store(pack, changed);
}

}  // namespace cuda
}  // namespace autoarch
