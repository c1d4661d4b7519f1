// Blocks and their threads on the host. A CUDA thread is a fiber: it runs until it waits at a barrier, then another one
// runs. Blocks come one after the other, in an order that changes from launch to launch.
//
// This file is compiled without a sanitizer, for its own bookkeeping is ordered by nothing but the scheduler.
#include "cuda_runtime.h"

#include <ucontext.h>

#include <cstdio>
#include <mutex>
#include <thread>
#include <vector>

#if defined(EMULATION_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
constexpr unsigned no_sync = 1;
#else
static void* __tsan_get_current_fiber() { return nullptr; }
static void* __tsan_create_fiber(unsigned) { return nullptr; }
static void __tsan_destroy_fiber(void*) {}
static void __tsan_switch_to_fiber(void*, unsigned) {}
static void __tsan_acquire(void*) {}
static void __tsan_release(void*) {}
constexpr unsigned no_sync = 0;
#endif

namespace emulation {
namespace {

constexpr std::size_t stack_bytes = 128 << 10;

// What a thread releases before it waits, and acquires after. Two in turn: one that is ahead releases the other.
struct Order {
  char tokens[2] = {};
};

struct Barrier {
  unsigned size = 0, arrived = 0, round = 0;
  Order order;
};

struct Warp {
  Barrier barrier;
  std::uint64_t values[2][32] = {};
};

using Place = void* [5];  // __builtin_setjmp's: no system call, and no library that a sanitizer replaces

// Stacks are used again: making one costs more than what most threads do.
class Stacks {
 public:
  char* take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (free_.empty()) return new char[stack_bytes];
    char* const stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void give(char* stack) { free_.push_back(stack); }
  ~Stacks() {
    for (char* stack : free_) delete[] stack;
  }

 private:
  std::mutex mutex_;
  std::vector<char*> free_;
} stacks;

struct Thread {
  Place place;
  char* stack = nullptr;
  bool started = false;
  void* fiber = nullptr;
  dim3 index;
  Warp* warp = nullptr;
  const Barrier* waits = nullptr;
  unsigned round = 0, exchanges = 0, block_syncs = 0, warp_syncs = 0;
  bool done = false;
};

struct Block {
  dim3 index, size, grid;
  Place scheduler;
  void* scheduler_fiber = nullptr;
  const std::function<void()>* kernel = nullptr;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  Barrier barrier;
  Thread* running = nullptr;
  char joined = 0;  // threads release it at their end, the launch acquires it
};

thread_local Block* block = nullptr;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s\n", what);
  std::fflush(stderr);
  std::_Exit(3);
}

[[noreturn]] __attribute__((noinline)) void go(Place& to) { __builtin_longjmp(to, 1); }

__attribute__((noinline)) void go(Place& from, Place& to) {
  if (__builtin_setjmp(from) == 0) go(to);
}

void switch_to_scheduler() {
  __tsan_switch_to_fiber(block->scheduler_fiber, no_sync);
  go(block->running->place, block->scheduler);
}

void wait(Barrier& barrier) {
  Thread& me = *block->running;
  const unsigned round = barrier.round;
  if (++barrier.arrived == barrier.size) {
    barrier.arrived = 0;
    ++barrier.round;
    return;
  }
  me.waits = &barrier, me.round = round;
  switch_to_scheduler();
  me.waits = nullptr;
}

void wait_in_order(Barrier& barrier, unsigned& syncs) {
  void* const token = &barrier.order.tokens[syncs++ % 2];
  __tsan_release(token);
  wait(barrier);
  __tsan_acquire(token);
}

void entry() {
  (*block->kernel)();
  __tsan_release(&block->joined);
  block->running->done = true;
  switch_to_scheduler();
}

[[noreturn]] __attribute__((noinline)) void enter(char* stack) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = stack_bytes;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
  setcontext(&context);
  fail("setcontext");
}

void resume(Thread& thread) {
  block->running = &thread;
  threadIdx = thread.index;
  __tsan_switch_to_fiber(thread.fiber, no_sync);
  if (thread.started) return go(block->scheduler, thread.place);
  thread.started = true;
  if (__builtin_setjmp(block->scheduler) == 0) enter(thread.stack);
}

void start(Thread& thread, unsigned index) {
  thread.index = dim3(index, 0, 0);
  thread.warp = &block->warps[index / 32];
  ++thread.warp->barrier.size;
  thread.stack = stacks.take();
  thread.fiber = __tsan_create_fiber(0);
}

void run_block(Block& it, bool backwards) {
  block = &it;
  blockIdx = it.index, blockDim = it.size, gridDim = it.grid;
  it.scheduler_fiber = __tsan_get_current_fiber();
  it.barrier.size = it.size.x;
  it.warps.resize((it.size.x + 31) / 32);
  it.threads.resize(it.size.x);
  for (unsigned i = 0; i < it.size.x; ++i) start(it.threads[i], i);
  for (unsigned left = it.size.x; left > 0;) {
    bool progress = false;
    for (unsigned i = 0; i < it.size.x; ++i) {
      Thread& thread = it.threads[backwards ? it.size.x - 1 - i : i];
      if (thread.done || (thread.waits != nullptr && thread.waits->round == thread.round)) continue;
      resume(thread);
      progress = true;
      if (thread.done) --left;
    }
    if (!progress) fail("a barrier that not all threads reach");
  }
  for (Thread& thread : it.threads) __tsan_destroy_fiber(thread.fiber);
  block = nullptr;
}

}  // namespace

void launch(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  static unsigned launches = 0;
  const bool backwards = ++launches % 2 == 0;
  std::vector<Block> all(blocks);
  for (unsigned i = 0; i < blocks; ++i) {
    all[i].index = dim3(backwards ? blocks - 1 - i : i, 0, 0);
    all[i].size = dim3(threads), all[i].grid = dim3(blocks);
    all[i].kernel = &kernel;
  }
#if defined(EMULATION_TSAN)
  std::vector<std::thread> running;
  for (Block& each : all) running.emplace_back([&each, backwards] { run_block(each, backwards); });
  for (std::thread& each : running) each.join();
#else
  for (Block& each : all) run_block(each, backwards);
#endif
  for (Block& each : all) {
    __tsan_acquire(&each.joined);
    for (Thread& thread : each.threads) stacks.give(thread.stack);  // now no access to it is unordered
  }
}

void sync_block() { wait_in_order(block->barrier, block->running->block_syncs); }

void sync_warp(unsigned mask) {
  if (mask != 0xffffffffu) fail("only full warps are emulated");
  wait_in_order(block->running->warp->barrier, block->running->warp_syncs);
}

const std::uint64_t* exchange(unsigned mask, std::uint64_t mine) {
  if (mask != 0xffffffffu) fail("only full warps are emulated");
  Thread& me = *block->running;
  // Two sets in turn: whoever writes to the first again has seen all others at the second, done with the first.
  std::uint64_t* values = me.warp->values[me.exchanges++ % 2];
  values[me.index.x % 32] = mine;
  wait(me.warp->barrier);
  return values;
}

std::uint64_t read(const std::uint64_t* values, int lane) { return values[lane & 31]; }

}  // namespace emulation
